//! Differential test of kernel and host with random packets and tables.

use std::{
    net::{IpAddr, Ipv4Addr},
    panic::{AssertUnwindSafe, catch_unwind},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::abi::{MemberState, Mode, Slot, member_flags, service_flags};
use steer_core::dataplane::Class;
use steer_tests::packet::{TestPacket, Transport, ethernet, icmp, ip_around};

use crate::{
    classes::class,
    fixture::{Fixture, OUTER_V4, OUTER_V6, PORT, V6_SLOTS, backend, client, v4, v6, vip},
    quic,
};

/// Default number of packets in a run, overridden by `STEER_FUZZ_PACKETS`; many of them meet
/// slightly changed tables.
const PACKETS: u64 = 20_000;
/// Number of packets checked with `steer explain`.
const EXPLAINED: u32 = 60;
/// Default seed of the random numbers, overridden by `STEER_FUZZ_SEED`.
const SEED: u64 = 20_261_124;
/// Interval between changes of services, which take the daemon a while.
const SERVICES_EVERY: u64 = 2000;

fn setting(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => usual,
    }
}

/// Returns a frame of one of the kinds that the data path knows.
fn frame(random: &mut StdRng) -> Vec<u8> {
    let packet = packet(random);
    match random.random_range(0..8) {
        0 => {
            let fragments = TestPacket {
                fragment: 0,
                extensions: Vec::new(),
                payload: vec![5; random.random_range(0..80)],
                id: random.random_range(0..4),
                ..packet
            }
            .fragments(8 * random.random_range(1..5));
            let index = random.random_range(0..fragments.len());
            fragments[index].clone()
        }
        1 => error(&packet, random),
        2 => {
            // A backend's answer to a port that may belong to a flow.
            let (source, destination, member) = if packet.source.is_ipv4() {
                (backend(5), OUTER_V4.into(), 5)
            } else {
                (backend(7), OUTER_V6.into(), 7)
            };
            TestPacket {
                source,
                destination,
                source_port: if member == 5 { PORT } else { 8080 },
                destination_port: 30_000 + random.random_range(0..1000),
                ..packet
            }
            .bytes()
        }
        _ => packet.bytes(),
    }
}

/// Returns an ICMP error about the answer to a packet.
fn error(packet: &TestPacket, random: &mut StdRng) -> Vec<u8> {
    let about = TestPacket {
        source: packet.destination,
        destination: packet.source,
        source_port: packet.destination_port,
        destination_port: packet.source_port,
        ..packet.clone()
    }
    .ip();
    let about = &about[..random.random_range(0..=about.len())];
    let is_v4 = packet.source.is_ipv4();
    let kind = if is_v4 {
        [[3, 4], [3, 1], [11, 0], [8, 0]]
    } else {
        [[2, 0], [1, 4], [3, 0], [128, 0]]
    }[random.random_range(0..4)];
    let addresses = [packet.source, packet.destination];
    let message = icmp(addresses, kind, random.random(), about);
    let mut frame = ethernet(packet.macs, &packet.tags, is_v4);
    frame.extend(ip_around(
        addresses,
        60,
        if is_v4 { 1 } else { 58 },
        &message,
    ));
    frame
}

fn packet(random: &mut StdRng) -> TestPacket {
    let is_v4: bool = random.random();
    let vip = random.random_range(1..=vip::QUIC_NAT);
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    let port = if random.random_ratio(1, 8) {
        PORT + 1
    } else {
        PORT
    };
    let mut source = client(is_v4).0;
    if random.random_ratio(1, 4) {
        source = match source {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() ^ 1 << random.random_range(0..24)).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() ^ 1 << random.random_range(0..120)).into()),
        };
    }
    let from = (source, 40_000 + random.random_range(0..16));
    let mut packet = if random.random_ratio(1, 4) {
        TestPacket::udp(from, (address, port))
    } else {
        TestPacket::tcp(from, (address, port), random.random())
    };
    packet.ttl = random.random_range(0..4);
    packet.tos = random.random();
    packet.fragment = [0, 0x4000, 0x2000, 0x0001][random.random_range(0..4)];
    if quic::is_datagram(&packet) && random.random() {
        packet.payload = quic::random(random);
    } else {
        packet.payload.truncate(random.random_range(0..20));
    }
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
    let slots = [1, 2, 3, 4, 5, 6, vip::RESTEER, vip::QUIC, vip::QUIC_NAT];
    let index = v6 * V6_SLOTS + u32::from(slots[random.random_range(0..slots.len())]);
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

/// Changes the mode, region, next hop, or load of members.
fn change_member(fixture: &mut Fixture, random: &mut StdRng) {
    let id = random.random_range(1..=8);
    fixture.change(id, |member| match random.random_range(0..4) {
        0 if id <= 4 => {
            member.mode = [Mode::Ipip, Mode::Gue, Mode::L2][random.random_range(0..3)] as u8;
        }
        1 => member.region = random.random_range(0..3),
        2 => member.vlan = random.random_range(0..2) * 77,
        _ => member.flags ^= member_flags::HOT,
    });
}

fn random_class(fixture: &mut Fixture, random: &mut StdRng, number: u32) -> Class {
    let last = random.random_range(1..=vip::RESTEER);
    let is_v4 = random.random();
    let vip = if is_v4 { v4(last) } else { v6(last) };
    let protocol = [6, 17][random.random_range(0..2)];
    let sources = if is_v4 {
        ["192.0.2.7/32", "192.0.2.0/24", "192.0.0.0/12", "0.0.0.0/0"]
    } else {
        ["2001:db8::7/128", "2001:db8::/64", "2001::/20", "::/0"]
    };
    let sources = &sources[random.random_range(0..4)..];
    let dscp: Vec<u8> = (0..random.random_range(0..40))
        .map(|_| random.random_range(0..64))
        .collect();
    let member = random.random_range(0..=9);
    let mut class = class(fixture, (vip, protocol), number, member, sources, &dscp);
    class.policy.regions = [u64::MAX, 1, 2, 6][random.random_range(0..4)];
    class.policy.slots_len = u32::from(random.random_ratio(7, 8));
    class.policy.flags ^= random.random_range(0..4);
    class.policy.flags |= random.random_range(0..2) * service_flags::SHEDS;
    class.policy.priority = random.random_range(0..4);
    fixture.set_pressure(class.policy.id, random.random_range(0..4));
    class
}

fn change_service(fixture: &mut Fixture, random: &mut StdRng) {
    let last = vip::KNOWN[random.random_range(0..vip::KNOWN.len())];
    let vip = if random.random() { v4(last) } else { v6(last) };
    let regions = [u64::MAX, 1, 2, 6][random.random_range(0..4)];
    let mut flags =
        random.random_range(0..4) | (random.random_range(0..2) * service_flags::AFFINITY);
    flags |= random.random_range(0..2) * service_flags::SHEDS;
    let pressure = random.random_range(0..2);
    for protocol in [6, 17].into_iter().filter(|_| last <= vip::RESTEER) {
        let id = fixture.service(vip, protocol).id;
        fixture.set_pressure(id, pressure);
    }
    if last == vip::NAT || last == vip::QUIC_NAT {
        flags |= service_flags::HAS_NAT;
    }
    if last >= vip::QUIC {
        // The flag is also set on the service's TCP, where it has no meaning.
        flags |= service_flags::QUIC;
    }
    fixture.change_service(vip, |service| {
        service.regions = regions;
        service.flags = flags;
    });
    let classes = (0..random.random_range(0..8))
        .map(|number| random_class(fixture, random, number))
        .collect();
    fixture.set_classes(classes);
    let clients = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), 24);
    let denied = random.random_ratio(1, 8).then_some(clients);
    fixture.deny(denied.as_slice());
}

/// Checks that `steer explain --packet` predicts what the kernel does next, also for fragments,
/// ICMP errors, answers of backends, and connection ids.
#[test]
fn explain_says_of_any_packet_what_the_kernel_does() {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_retry_ticks = u32::MAX);
    fixture.explains = true;
    for _ in 0..EXPLAINED {
        let frame = frame(&mut random);
        fixture.run(&frame);
        // Once more, with the state left by the first one.
        fixture.run(&frame);
    }
}

/// Maximum number of packets that meet the same tables.
const TOGETHER: u64 = 200_000;

#[test]
fn random_packets_and_tables_are_decided_alike() {
    let seed = setting("STEER_FUZZ_SEED", SEED);
    let packets = setting("STEER_FUZZ_PACKETS", PACKETS);
    for round in 0..packets.div_ceil(TOGETHER) {
        let packets = (packets - round * TOGETHER).min(TOGETHER);
        some_packets(seed.wrapping_add(round), packets);
    }
}

/// Runs packets over fresh tables, since the kernel's evict flows once they are full, and the
/// host's do not.
fn some_packets(seed: u64, packets: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fixture = Fixture::new();
    fixture.stop_the_clock();
    for number in 0..packets {
        let mut frame = frame(&mut random);
        mutate(&mut frame, &mut random);
        if random.random_ratio(1, 16) {
            change(&mut fixture, &mut random);
            change_member(&mut fixture, &mut random);
        }
        if number % SERVICES_EVERY == SERVICES_EVERY - 1 {
            change_service(&mut fixture, &mut random);
        }
        let ran = catch_unwind(AssertUnwindSafe(|| fixture.run_quickly(&frame)));
        assert!(ran.is_ok(), "packet {number} of seed {seed}: {frame:02x?}");
    }
    fixture.check_drops();
    for index in 0..2 * V6_SLOTS {
        fixture.slot(index);
    }
    // Missing members have no visible counters.
    for id in 1..=8 {
        fixture.set_state(id, MemberState::Up);
    }
    fixture.check_counters();
}
