//! Slots, members' states and the flow table.

use steer_common::{
    Action,
    abi::{MemberState, Slot, Track, member_flags, service_flags},
    verdict::DropReason,
};
use steer_tests::packet::{ACK, FIN, RST, SYN, TestPacket, Transport};

use crate::fixture::{Fixture, PORT, backend, client, hex, v4, v6, vip};

const SLOT: u32 = vip::EXACT as u32;

fn tcp(flags: u8) -> Vec<u8> {
    TestPacket::tcp(client(true), (v4(vip::EXACT), PORT), flags).bytes()
}

fn udp() -> Vec<u8> {
    TestPacket::udp(client(true), (v4(vip::EXACT), PORT)).bytes()
}

/// Returns a slot whose new flows go to the first member, while open ones belong to the second.
fn moving() -> Slot {
    Slot {
        owner: 2,
        ..Slot::owned_by(1, 2)
    }
}

/// Returns the IPv4 member that a packet was sent to.
fn member_of(fixture: &mut Fixture, frame: &[u8]) -> u16 {
    let ran = fixture.run(frame);
    assert_eq!(ran.action, Action::Transmit(1));
    (1..=2)
        .find(|id| match backend(*id) {
            std::net::IpAddr::V4(address) => ran.bytes[30..34] == address.octets(),
            std::net::IpAddr::V6(_) => false,
        })
        .expect("sent to no member")
}

#[test]
fn new_flows_go_to_first_and_open_ones_to_the_owner() {
    let mut fixture = Fixture::new();
    let moving = moving();
    fixture.set_slot(SLOT, moving);
    // An open flow without an entry goes to the owner, and the slot is marked as still in use.
    assert_eq!(member_of(&mut fixture, &tcp(ACK)), 2);
    assert_eq!(fixture.slot(SLOT), Slot { seen: 1, ..moving });
    // A new flow goes to the first choice, with an entry because the owner differs.
    assert_eq!(member_of(&mut fixture, &tcp(SYN)), 1);
    let tracked = Slot {
        seen: 1,
        track: Track::Some as u8,
        ..moving
    };
    assert_eq!(fixture.slot(SLOT), tracked);
    assert_eq!(member_of(&mut fixture, &tcp(ACK)), 1);
    // Wherever the slot changes from here, the flow stays.
    for first in [1, 2] {
        fixture.set_slot(SLOT, Slot { first, ..tracked });
        assert_eq!(member_of(&mut fixture, &tcp(ACK | 8)), 1);
        assert_eq!(member_of(&mut fixture, &tcp(SYN)), 1);
    }
    fixture.check_counters();
}

/// A segment with this sequence number.
fn numbered(flags: u8, number: u32) -> Vec<u8> {
    let mut packet = TestPacket::tcp(client(true), (v4(vip::EXACT), PORT), flags);
    if let Transport::Tcp { sequence, .. } = &mut packet.transport {
        *sequence = number;
    }
    packet.bytes()
}

/// Sequence numbers of a connection that is open, and of a SYN with the same ends.
const OPEN: u32 = 0x5000_0000;
const FORGED: u32 = 0x9000_0000;

#[test]
fn a_syn_in_the_name_of_a_client_moves_no_open_flow() {
    let mut fixture = Fixture::new();
    fixture.set_slot(SLOT, moving());
    assert_eq!(member_of(&mut fixture, &numbered(ACK, OPEN)), 2);
    assert_eq!(member_of(&mut fixture, &numbered(SYN, FORGED)), 1);
    for flags in [ACK, ACK | FIN] {
        assert_eq!(member_of(&mut fixture, &numbered(flags, OPEN)), 2);
    }
    // The port may be used again: the last SYN counts, and the segment behind it goes where it went.
    for number in [u32::MAX - 3, 77] {
        assert_eq!(member_of(&mut fixture, &numbered(SYN, number)), 1);
        assert_eq!(member_of(&mut fixture, &numbered(ACK, OPEN + 1)), 2);
    }
    assert_eq!(member_of(&mut fixture, &numbered(ACK, 78)), 1);
    assert_eq!(member_of(&mut fixture, &numbered(ACK, 1 << 20)), 1);
    fixture.check_counters();
}

#[test]
fn a_syn_in_the_name_of_a_client_ends_no_flow_of_a_draining_member() {
    let mut fixture = Fixture::new();
    fixture.set_slot(SLOT, moving());
    for flags in [SYN, ACK] {
        assert_eq!(member_of(&mut fixture, &numbered(flags, OPEN)), 1);
    }
    fixture.set_state(1, MemberState::Draining);
    assert_eq!(member_of(&mut fixture, &numbered(SYN, FORGED)), 2);
    for flags in [ACK, ACK | FIN] {
        assert_eq!(member_of(&mut fixture, &numbered(flags, OPEN + 1)), 1);
    }
    // It was the client's own after all.
    for _ in 0..2 {
        assert_eq!(member_of(&mut fixture, &numbered(ACK, FORGED + 1)), 2);
    }
    fixture.check_counters();
}

#[test]
fn a_settled_slot_remembers_nothing() {
    let mut fixture = Fixture::new();
    for flags in [SYN, ACK, ACK | FIN, RST] {
        assert_eq!(member_of(&mut fixture, &tcp(flags)), 1);
    }
    assert_eq!(fixture.slot(SLOT), Slot::owned_by(1, 2));
    assert!(fixture.host.flows.borrow().is_empty());
}

#[test]
fn a_member_that_is_down_is_left_in_the_same_packet() {
    let mut fixture = Fixture::new();
    fixture.set_state(1, MemberState::Down);
    assert_eq!(member_of(&mut fixture, &tcp(SYN)), 2);
    assert_eq!(member_of(&mut fixture, &tcp(ACK)), 2, "remembered");
    fixture.set_state(2, MemberState::Down);
    for (flags, action) in [
        (ACK, Action::Transmit(1)),
        (RST, Action::Drop(DropReason::MemberDown)),
    ] {
        assert_eq!(fixture.run(&tcp(flags)).action, action);
    }
    assert_eq!(
        fixture.run(&udp()).action,
        Action::Drop(DropReason::NoBackend)
    );
    fixture.set_flags(v4(vip::EXACT), 0);
    let dropped = Action::Drop(DropReason::NoBackend);
    assert_eq!(fixture.run(&tcp(SYN)).action, dropped);
}

#[test]
fn a_member_that_drains_keeps_open_flows_only() {
    let mut fixture = Fixture::new();
    fixture.set_state(1, MemberState::Draining);
    assert_eq!(member_of(&mut fixture, &tcp(ACK)), 1);
    let other = TestPacket::tcp((client(true).0, 40_001), (v4(vip::EXACT), PORT), SYN).bytes();
    assert_eq!(member_of(&mut fixture, &other), 2);
    assert_eq!(member_of(&mut fixture, &udp()), 2);
}

#[test]
fn a_hot_member_is_the_last_choice_for_new_flows() {
    let mut fixture = Fixture::new();
    fixture.change(1, |member| member.flags |= member_flags::HOT);
    assert_eq!(member_of(&mut fixture, &tcp(SYN)), 2);
    assert_eq!(member_of(&mut fixture, &udp()), 2);
    fixture.set_state(2, MemberState::Down);
    assert_eq!(member_of(&mut fixture, &udp()), 1);
}

#[test]
fn open_flows_of_a_dead_member_move_if_the_service_says_so() {
    let mut fixture = Fixture::new();
    fixture.set_state(1, MemberState::Down);
    let packet = TestPacket::tcp(client(true), (v4(vip::RESTEER), PORT), ACK);
    assert_eq!(member_of(&mut fixture, &packet.bytes()), 2);
}

#[test]
fn a_flow_that_left_a_dead_member_does_not_return_to_it() {
    // By a new connection from the same port, or by a packet of the old one.
    for (address, flags) in [(vip::EXACT, SYN), (vip::RESTEER, ACK)] {
        let mut fixture = Fixture::new();
        fixture.set_slot(u32::from(address), moving());
        let packet = |flags| TestPacket::tcp(client(true), (v4(address), PORT), flags).bytes();
        assert_eq!(member_of(&mut fixture, &packet(SYN)), 1);
        fixture.set_state(1, MemberState::Down);
        assert_eq!(member_of(&mut fixture, &packet(flags)), 2);
        fixture.set_state(1, MemberState::Up);
        assert_eq!(member_of(&mut fixture, &packet(ACK)), 2);
    }
}

#[test]
fn a_port_that_is_used_again_is_a_flow_of_its_own() {
    for state in [MemberState::Down, MemberState::Draining] {
        // Of the previous flow only the SYN was seen, or more.
        for went_on in [false, true] {
            let mut fixture = Fixture::new();
            fixture.set_slot(SLOT, moving());
            assert_eq!(member_of(&mut fixture, &tcp(SYN)), 1);
            if went_on {
                assert_eq!(member_of(&mut fixture, &tcp(ACK)), 1);
            }
            fixture.set_state(1, state);
            assert_eq!(member_of(&mut fixture, &tcp(SYN)), 2, "{state:?} {went_on}");
            for _ in 0..2 {
                assert_eq!(member_of(&mut fixture, &tcp(ACK)), 2, "{state:?} {went_on}");
            }
            fixture.set_state(1, MemberState::Up);
            assert_eq!(member_of(&mut fixture, &tcp(ACK)), 2, "{state:?} {went_on}");
        }
    }
}

#[test]
fn a_remembered_flow_of_a_draining_member_goes_on() {
    let mut fixture = Fixture::new();
    fixture.set_slot(SLOT, moving());
    assert_eq!(member_of(&mut fixture, &tcp(SYN)), 1);
    fixture.set_state(1, MemberState::Draining);
    for flags in [ACK, ACK, FIN | ACK] {
        assert_eq!(member_of(&mut fixture, &tcp(flags)), 1);
    }
}

#[test]
fn an_affine_udp_flow_stays_with_the_owner() {
    let mut fixture = Fixture::new();
    let moving = moving();
    fixture.set_slot(SLOT, moving);
    assert_eq!(member_of(&mut fixture, &udp()), 1);
    fixture.set_flags(v4(vip::EXACT), service_flags::AFFINITY);
    assert_eq!(member_of(&mut fixture, &udp()), 2);
}

#[test]
fn a_service_on_a_port_goes_before_one_on_any() {
    let mut fixture = Fixture::new();
    let both = v4(vip::ANY);
    fixture.change_service(v4(vip::EXACT), |service| service.key.address = both.into());
    fixture.set_slot(u32::from(vip::ANY), Slot::owned_by(2, 1));
    for (port, member) in [(PORT, 1), (PORT + 1, 2), (1, 2), (u16::MAX, 2)] {
        for packet in [
            TestPacket::tcp(client(true), (both, port), SYN),
            TestPacket::udp(client(true), (both, port)),
        ] {
            assert_eq!(member_of(&mut fixture, &packet.bytes()), member, "{port}");
        }
    }
    // Its previous position is empty.
    let packet = TestPacket::tcp(client(true), (v4(vip::EXACT), PORT), SYN);
    assert_eq!(fixture.run(&packet.bytes()).action, Action::Pass);
}

#[test]
fn a_member_without_a_next_hop_is_asked_for_and_not_sent_to() {
    let mut fixture = Fixture::new();
    fixture.change(1, |member| member.flags = 0);
    let action = fixture.run(&tcp(SYN)).action;
    assert_eq!(action, Action::Drop(DropReason::NoRoute));
    fixture.configure(|config| config.flow_seed += 1);
    fixture.change(1, |member| member.flags = member_flags::RESOLVED);
    assert_eq!(member_of(&mut fixture, &tcp(SYN)), 1);
}

/// Returns the reset that answers a segment, built from scratch.
fn reset_of(packet: &TestPacket, sequence: u32, acknowledgment: u32, flags: u8) -> Vec<u8> {
    let v4 = packet.source.is_ipv4();
    TestPacket {
        macs: [packet.macs[1], packet.macs[0]],
        source: packet.destination,
        destination: packet.source,
        source_port: packet.destination_port,
        destination_port: packet.source_port,
        tos: 0,
        ttl: 64,
        id: 0,
        fragment: 0x4000,
        options: Vec::new(),
        extensions: Vec::new(),
        label: if v4 { packet.label } else { 0 },
        transport: Transport::Tcp {
            sequence,
            acknowledgment,
            flags,
            window: 0,
            options: Vec::new(),
        },
        payload: Vec::new(),
        padding: 0,
        ..packet.clone()
    }
    .bytes()
}

#[test]
fn a_reset_is_one_that_the_client_accepts() {
    let mut fixture = Fixture::new();
    for address in [v4(vip::EMPTY_REJECT), v6(vip::EMPTY_REJECT)] {
        let from = client(address.is_ipv4());
        // To a SYN: it acknowledges the SYN, and its payload.
        let packet = TestPacket::tcp(from, (address, PORT), SYN);
        let next = 0x1122_3344;
        let ran = fixture.run(&packet.bytes());
        assert_eq!(ran.action, Action::Transmit(1));
        assert_eq!(hex(&ran.bytes), hex(&reset_of(&packet, 0, next, RST | ACK)));
        // To a segment of an open flow: its sequence number is the one expected next.
        for tags in [vec![], vec![(0x8100, 7)]] {
            let packet = TestPacket {
                tags,
                tos: 0x10,
                ..TestPacket::tcp(from, (address, PORT), ACK)
            };
            let ran = fixture.run(&packet.bytes());
            assert_eq!(ran.action, Action::Transmit(1));
            assert_eq!(
                hex(&ran.bytes),
                hex(&reset_of(&packet, 0x5566_7788, 0, RST))
            );
        }
        // Never to a reset.
        let packet = TestPacket::tcp(from, (address, PORT), RST);
        let dropped = Action::Drop(DropReason::NoBackend);
        assert_eq!(fixture.run(&packet.bytes()).action, dropped);
    }
    // One to each SYN and two to each open flow, of both families; none to a reset.
    assert_eq!(fixture.answered(DropReason::Reset), 6);
}

#[test]
fn a_service_without_backends_drops_or_rejects_as_it_says() {
    let mut fixture = Fixture::new();
    let dropped = Action::Drop(DropReason::NoBackend);
    for flags in [SYN, ACK] {
        let packet = TestPacket::tcp(client(true), (v4(vip::EMPTY_DROP), PORT), flags);
        assert_eq!(fixture.run(&packet.bytes()).action, dropped);
    }
    for vip in [vip::EMPTY_DROP, vip::EMPTY_REJECT] {
        let packet = TestPacket::udp(client(false), (v6(vip), PORT));
        assert_eq!(fixture.run(&packet.bytes()).action, dropped);
    }
}

#[test]
fn what_is_not_for_a_service_passes_untouched() {
    let mut fixture = Fixture::new();
    for frame in [
        TestPacket::tcp(client(true), (v4(vip::UNKNOWN), PORT), SYN),
        TestPacket::tcp(client(true), (v4(vip::EXACT), PORT + 1), SYN),
        TestPacket::udp(client(false), (v6(vip::UNKNOWN), PORT)),
        TestPacket {
            options: vec![1; 40],
            ..TestPacket::tcp(client(true), (v4(vip::UNKNOWN), PORT), ACK)
        },
        TestPacket {
            fragment: 0x2000,
            ..TestPacket::tcp(client(true), (v4(vip::UNKNOWN), PORT), ACK)
        },
    ] {
        let frame = frame.bytes();
        let ran = fixture.run(&frame);
        assert_eq!(ran.action, Action::Pass);
        assert_eq!(hex(&ran.bytes), hex(&frame));
    }
}
