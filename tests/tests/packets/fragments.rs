//! Fragments: the first one carries the decision, later ones follow it.

use std::net::{IpAddr, Ipv4Addr};

use steer_common::{
    Action,
    abi::{MemberState, Slot},
    verdict::DropReason,
};
use steer_tests::packet::{ACK, SYN, TestPacket, checksum, ethernet, ipv4_header, ipv6_header};

use crate::{
    fixture::{
        Fixture, OUTER_V4, OUTER_V6, PORT, V6_SLOTS, backend, client, hex, macs_to, v4, v6, vip,
    },
    nat::{answer, returned, translated},
};

const LOST: Action = Action::Drop(DropReason::Fragment);
const SENT: Action = Action::Transmit(1);
const SIZE: usize = 64;

/// Returns the outcome for a later fragment whose first one was not seen: it goes to a kernel that
/// forwards nothing.
fn unknown(fixture: &Fixture, is_v4: bool) -> Action {
    let [v4, v6] = fixture.host.forwards.get();
    if if is_v4 { v4 } else { v6 } {
        LOST
    } else {
        Action::Pass
    }
}

fn datagram(is_v4: bool, vip: u8) -> TestPacket {
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    TestPacket {
        payload: (0..200).collect(),
        fragment: 0,
        ..TestPacket::udp(client(is_v4), (address, PORT))
    }
}

/// Returns a fragment in an outer header to member 1 or 3.
fn wrapped(packet: &TestPacket, fragment: &[u8], sent: &[u8]) -> Vec<u8> {
    let inner = &fragment[14..];
    let mut frame = ethernet(
        macs_to(if packet.source.is_ipv4() { 1 } else { 3 }),
        &[],
        packet.source.is_ipv4(),
    );
    match (backend(1), backend(3)) {
        (std::net::IpAddr::V4(to), _) if packet.source.is_ipv4() => {
            frame.extend(ipv4_header(
                packet.tos,
                20 + inner.len(),
                (packet.id, 0),
                (64, 4),
                [OUTER_V4.octets(), to.octets()],
                &[],
            ));
        }
        (_, std::net::IpAddr::V6(to)) => {
            let label = u32::from_be_bytes(sent[14..18].try_into().unwrap()) & 0xf_ffff;
            frame.extend(ipv6_header(
                (packet.tos, label),
                inner.len(),
                (41, 64),
                [OUTER_V6.octets(), to.octets()],
            ));
        }
        other => panic!("{other:?}"),
    }
    frame.extend(inner);
    frame
}

#[test]
fn all_parts_are_wrapped_for_the_member_of_the_first() {
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        let packet = datagram(is_v4, vip::EXACT);
        let lowered = TestPacket {
            ttl: packet.ttl - 1,
            ..packet.clone()
        };
        let slot = u32::from(vip::EXACT) + if is_v4 { 0 } else { V6_SLOTS };
        let parts = packet.fragments(SIZE);
        assert!(parts.len() > 3);
        for (part, lowered) in parts.iter().zip(lowered.fragments(SIZE)) {
            let ran = fixture.run(part);
            assert_eq!(ran.action, SENT);
            assert_eq!(
                hex(&ran.bytes),
                hex(&wrapped(&packet, &lowered, &ran.bytes))
            );
            // The rest goes there whatever the slot contains by now.
            fixture.set_slot(slot, Slot::owned_by(if is_v4 { 2 } else { 4 }, 0));
        }
        fixture.check_counters();
    }
}

#[test]
fn all_parts_are_translated_both_ways() {
    for (is_v4, member) in [(true, 5), (false, 7)] {
        let mut fixture = Fixture::new();
        let packet = datagram(is_v4, vip::NAT);
        let mut port = 0;
        for (index, part) in packet.fragments(SIZE).iter().enumerate() {
            let ran = fixture.run(part);
            assert_eq!(ran.action, SENT);
            if index == 0 {
                let at = if is_v4 { 34 } else { 62 };
                port = u16::from_be_bytes([ran.bytes[at], ran.bytes[at + 1]]);
            }
            let expected = &translated(&packet, member, port).fragments(SIZE)[index];
            assert_eq!(hex(&ran.bytes), hex(expected), "part {index}");
        }
        let back = TestPacket {
            payload: (0..150).rev().collect(),
            ..answer(&packet, member, port, ACK)
        };
        let expected = returned(&back, &packet).fragments(SIZE);
        for (part, expected) in back.fragments(SIZE).iter().zip(expected) {
            let ran = fixture.run(part);
            assert_eq!(ran.action, SENT);
            assert_eq!(hex(&ran.bytes), hex(&expected));
        }
        fixture.check_counters();
    }
}

#[test]
fn a_part_that_comes_before_the_first_is_lost_and_those_after_it_are_not() {
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        let parts = datagram(is_v4, vip::EXACT).fragments(SIZE);
        let unknown = unknown(&fixture, is_v4);
        assert_eq!(fixture.run(&parts[1]).action, unknown);
        assert_eq!(fixture.run(&parts[0]).action, SENT);
        assert_eq!(fixture.run(&parts[2]).action, SENT);
        assert_eq!(fixture.run(&parts[1]).action, SENT);
        // A fragment of another packet.
        let other = TestPacket {
            id: 0x4321,
            ..datagram(is_v4, vip::EXACT)
        };
        assert_eq!(fixture.run(&other.fragments(SIZE)[1]).action, unknown);
    }
}

#[test]
fn parts_of_what_is_not_for_a_service_pass_untouched() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        let elsewhere = datagram(is_v4, vip::UNKNOWN);
        let other_port = TestPacket {
            destination_port: PORT + 1,
            ..datagram(is_v4, vip::EXACT)
        };
        for part in elsewhere.fragments(SIZE).iter().skip(1) {
            let ran = fixture.run(part);
            assert_eq!((ran.action, hex(&ran.bytes)), (Action::Pass, hex(part)));
        }
        for part in other_port.fragments(SIZE) {
            let ran = fixture.run(&part);
            assert_eq!((ran.action, hex(&ran.bytes)), (Action::Pass, hex(&part)));
        }
    }
}

#[test]
fn a_part_that_would_overwrite_the_flags_is_dropped() {
    let mut fixture = Fixture::new();
    let packet = TestPacket {
        payload: (0..100).collect(),
        ..TestPacket::tcp(client(true), (v4(vip::EXACT), PORT), SYN)
    };
    assert_eq!(fixture.run(&packet.fragments(24)[0]).action, SENT);
    // After the ports, over the sequence number and the flags.
    assert_eq!(fixture.run(&packet.fragments(8)[1]).action, LOST);
    assert_eq!(fixture.run(&packet.fragments(24)[1]).action, SENT);
    // A first fragment that does not include the flags.
    let malformed = Action::Drop(DropReason::Malformed);
    assert_eq!(fixture.run(&packet.fragments(8)[0]).action, malformed);
}

#[test]
fn parts_of_what_was_refused_are_lost_too() {
    let mut fixture = Fixture::new();
    for id in [1, 2] {
        fixture.set_state(id, MemberState::Down);
    }
    let parts = datagram(true, vip::EXACT).fragments(SIZE);
    let refused = Action::Drop(DropReason::NoBackend);
    assert_eq!(fixture.run(&parts[0]).action, refused);
    let unknown = unknown(&fixture, true);
    assert_eq!(fixture.run(&parts[1]).action, unknown);
    fixture.set_state(1, MemberState::Up);
    assert_eq!(fixture.run(&parts[0]).action, SENT);
    fixture.set_state(1, MemberState::Down);
    let down = Action::Drop(DropReason::MemberDown);
    assert_eq!(fixture.run(&parts[1]).action, down);
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let mut fixture = Fixture::new();
    let packet = TestPacket {
        extensions: vec![(44, vec![0, 0, 0, 1, 2, 3, 4])],
        ..datagram(false, vip::EXACT)
    };
    assert_eq!(fixture.run(&packet.bytes()).action, SENT);
}

#[test]
fn parts_that_overlap_go_to_the_same_place() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        let packet = datagram(is_v4, vip::EXACT);
        let member = if is_v4 { 1 } else { 3 };
        let (coarse, fine) = (packet.fragments(128), packet.fragments(SIZE));
        // The second of the small ones is inside the first of the large ones; the receiver decides
        // which bytes count.
        for part in [
            &coarse[0], &fine[1], &fine[2], &coarse[1], &fine[2], &coarse[0],
        ] {
            let ran = fixture.run(part);
            assert_eq!(ran.action, SENT);
            assert_eq!(ran.bytes[..12], macs_to(member).concat());
            assert_eq!(ran.bytes.len(), part.len() + if is_v4 { 20 } else { 40 });
        }
    }
}

#[test]
fn a_flood_of_fragments_hides_no_packet_from_its_parts() {
    // More than twice as many as are tracked at a time.
    const FLOOD: u32 = 20_000;
    let mut fixture = Fixture::new();
    let part = TestPacket {
        source: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        ..datagram(true, vip::EXACT)
    };
    for number in 0..FLOOD {
        let part = TestPacket {
            id: number as u16,
            source_port: number as u16,
            payload: vec![0; 9],
            ..part.clone()
        };
        let parts = part.fragments(8);
        // First fragments, and later ones of packets without a first one.
        fixture.run_quickly(&parts[if number % 4 == 3 { 1 } else { 0 }]);
        if number % 2000 == 1999 {
            for part in datagram(true, vip::EXACT).fragments(SIZE) {
                assert_eq!(fixture.run(&part).action, SENT, "after {number}");
            }
        }
    }
}

/// Returns a later fragment of a protocol other than TCP and UDP.
fn other_protocol(is_v4: bool, vip: u8, protocol: u8) -> Vec<u8> {
    let mut part = datagram(is_v4, vip).fragments(SIZE)[1].clone();
    if is_v4 {
        part[14 + 9] = protocol;
        part[24..26].fill(0);
        let sum = checksum(&part[14..34]).to_be_bytes();
        part[24..26].copy_from_slice(&sum);
    } else {
        part[14 + 40] = protocol;
    }
    part
}

#[test]
fn parts_of_pings_and_of_esp_are_the_kernels() {
    const ESP: u8 = 50;
    let mut fixture = Fixture::new();
    for (is_v4, icmp) in [(true, 1), (false, 58)] {
        for vip in [vip::EXACT, vip::NAT, vip::EMPTY_DROP] {
            for protocol in [icmp, ESP] {
                let part = other_protocol(is_v4, vip, protocol);
                let ran = fixture.run(&part);
                assert_eq!((ran.action, hex(&ran.bytes)), (Action::Pass, hex(&part)));
            }
        }
    }
}

#[test]
fn later_parts_for_the_kernel_may_come_first_where_it_keeps_them() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        let other_port = TestPacket {
            destination_port: PORT + 1,
            id: 0x7777,
            ..datagram(is_v4, vip::EXACT)
        };
        let parts = other_port.fragments(SIZE);
        let before = unknown(&fixture, is_v4);
        assert_eq!(fixture.run(&parts[1]).action, before);
        assert_eq!(fixture.run(&parts[0]).action, Action::Pass);
        assert_eq!(fixture.run(&parts[1]).action, Action::Pass);
    }
}
