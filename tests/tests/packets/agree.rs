//! Kernel and host agree on packets and tables that nobody thought of.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::abi::{MemberState, Slot};
use steer_tests::packet::{Packet, Transport};

use crate::fixture::{Fixture, PORT, V6_SLOTS, client, v4, v6, vip};

/// Packets of a run; each meets tables that changed a little.
const PACKETS: u32 = 4000;

fn packet(random: &mut StdRng) -> Packet {
    let is_v4: bool = random.random();
    let vip = random.random_range(1..=vip::UNKNOWN);
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    let port = if random.random_ratio(1, 8) {
        PORT + 1
    } else {
        PORT
    };
    let from = (client(is_v4).0, 40_000 + random.random_range(0..16));
    let mut packet = if random.random_ratio(1, 4) {
        Packet::udp(from, (address, port))
    } else {
        Packet::tcp(from, (address, port), random.random())
    };
    packet.ttl = random.random_range(0..4);
    packet.tos = random.random();
    packet.fragment = [0, 0x4000, 0x2000, 0x0001][random.random_range(0..4)];
    packet.payload.truncate(random.random_range(0..20));
    packet.padding = random.random_range(0..8);
    if random.random_ratio(1, 4) {
        packet.tags = vec![(0x8100, 5); random.random_range(1..4)];
    }
    if random.random_ratio(1, 4) {
        packet.options = vec![1; 4 * random.random_range(0..11)];
    }
    for _ in 0..random.random_range(0..3) {
        let kind = [0, 43, 44, 51, 60, 135][random.random_range(0..6)];
        packet.extensions.push((kind, vec![0; 7]));
    }
    if let Transport::Udp { checksum } = &mut packet.transport {
        *checksum = random.random();
    }
    packet
}

fn mutate(frame: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..frame.len());
        frame[at] = random.random();
    }
    if random.random_ratio(1, 4) {
        // The kernel runs no test with less than an Ethernet header.
        frame.truncate(random.random_range(14..=frame.len()));
    }
}

fn change(fixture: &mut Fixture, random: &mut StdRng) {
    let v6 = u32::from(random.random::<bool>());
    let index = v6 * V6_SLOTS + u32::from(random.random_range(1..=vip::RESTEER));
    let mut member = || random.random_range(0..=9);
    let slot = Slot {
        owner: member(),
        first: member(),
        second: member(),
        track: fixture.slot(index).track,
        seen: 0,
    };
    fixture.set_slot(index, slot);
    let states = [
        MemberState::Absent,
        MemberState::Up,
        MemberState::Draining,
        MemberState::Down,
    ];
    let state = states[random.random_range(0..4)];
    fixture.set_state(random.random_range(1..=8), state);
}

#[test]
fn random_packets_and_tables_are_decided_alike() {
    let seed = 20_261_124;
    let mut random = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::new();
    // A SYN that is repeated would be taken elsewhere half a second later: by the clock, that is,
    // which the two read one after the other.
    fixture.configure(|config| config.nat_retry_ms = u32::MAX);
    for number in 0..PACKETS {
        let mut frame = packet(&mut random).bytes();
        mutate(&mut frame, &mut random);
        if random.random_ratio(1, 4) {
            change(&mut fixture, &mut random);
        }
        let ran = catch_unwind(AssertUnwindSafe(|| fixture.run(&frame)));
        assert!(ran.is_ok(), "packet {number} of seed {seed}: {frame:02x?}");
    }
    for index in 0..2 * V6_SLOTS {
        fixture.slot(index);
    }
    // Members that are absent show no counters.
    for id in 1..=8 {
        fixture.set_state(id, MemberState::Up);
    }
    fixture.check_counters();
}
