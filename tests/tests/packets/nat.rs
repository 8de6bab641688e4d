//! Mode `nat`: translation of packets in both directions.

use std::net::IpAddr;

use steer_common::{Action, abi::Slot, verdict::DropReason};
use steer_tests::packet::{
    ACK, ACKNOWLEDGMENT, CLIENT_MAC, FIN, NODE_MAC, RST, SEQUENCE, SYN, TestPacket, Transport,
};

use crate::fixture::{
    Fixture, OUTER_V4, OUTER_V6, PORT, V6_SLOTS, backend, client, hex, macs_to, v4, v6, vip,
};

const SENT: Action = Action::Transmit(1);
/// Payload of backends' packets.
const ANSWER: &[u8] = b"an answer";

pub(crate) fn tcp(is_v4: bool, flags: u8) -> TestPacket {
    let address = if is_v4 { v4(vip::NAT) } else { v6(vip::NAT) };
    TestPacket::tcp(client(is_v4), (address, PORT), flags)
}

pub(crate) fn udp(is_v4: bool) -> TestPacket {
    let address = if is_v4 { v4(vip::NAT) } else { v6(vip::NAT) };
    TestPacket::udp(client(is_v4), (address, PORT))
}

/// Returns a packet with the addresses that the backend sees.
pub(crate) fn translated(packet: &TestPacket, member: u16, source_port: u16) -> TestPacket {
    TestPacket {
        macs: macs_to(member),
        tags: Vec::new(),
        source: if packet.source.is_ipv4() {
            OUTER_V4.into()
        } else {
            OUTER_V6.into()
        },
        destination: backend(member),
        source_port,
        destination_port: if member.is_multiple_of(2) { 8080 } else { PORT },
        ttl: packet.ttl - 1,
        ..packet.clone()
    }
}

/// Returns the backend's packet with the same content, as it arrives at the node.
pub(crate) fn answer(packet: &TestPacket, member: u16, source_port: u16, flags: u8) -> TestPacket {
    let sent = translated(packet, member, source_port);
    let transport = match &packet.transport {
        Transport::Tcp { .. } => {
            let Transport::Tcp {
                window, options, ..
            } = TestPacket::tcp((sent.source, 1), (sent.destination, 1), flags).transport
            else {
                panic!("not TCP");
            };
            // The numbers expected by a client that answers with the usual ones.
            let before = if flags & SYN == 0 {
                0
            } else {
                1 + ANSWER.len() as u32
            };
            let acknowledgment = if flags & ACK == 0 { 0 } else { SEQUENCE };
            Transport::Tcp {
                sequence: ACKNOWLEDGMENT - before,
                acknowledgment,
                flags,
                window,
                options,
            }
        }
        Transport::Udp { checksum } => Transport::Udp {
            checksum: *checksum,
        },
    };
    TestPacket {
        macs: [sent.macs[1], sent.macs[0]],
        source: sent.destination,
        destination: sent.source,
        source_port: sent.destination_port,
        destination_port: sent.source_port,
        transport,
        payload: ANSWER.to_vec(),
        ..sent
    }
}

/// Sets the sequence and acknowledgment numbers of a TCP segment.
pub(crate) fn with_numbers(packet: TestPacket, sequence: u32, acknowledgment: u32) -> TestPacket {
    let Transport::Tcp {
        flags,
        window,
        options,
        ..
    } = packet.transport
    else {
        panic!("not TCP");
    };
    TestPacket {
        transport: Transport::Tcp {
            sequence,
            acknowledgment,
            flags,
            window,
            options,
        },
        ..packet
    }
}

/// Returns the same packet as the client receives it.
pub(crate) fn returned(answer: &TestPacket, request: &TestPacket) -> TestPacket {
    TestPacket {
        macs: [request.macs[1], request.macs[0]],
        tags: request.tags.clone(),
        source: request.destination,
        destination: request.source,
        source_port: request.destination_port,
        destination_port: request.source_port,
        ttl: answer.ttl - 1,
        ..answer.clone()
    }
}

/// Sends a client's packet, compares the result completely, and returns the port that stands for
/// the client.
pub(crate) fn forward(fixture: &mut Fixture, packet: &TestPacket, member: u16) -> u16 {
    let ran = fixture.run(&packet.bytes());
    assert_eq!(ran.action, SENT);
    // Frames to members have no tags.
    let at = packet.transport_at() - 4 * packet.tags.len();
    let port = u16::from_be_bytes([ran.bytes[at], ran.bytes[at + 1]]);
    assert!((30_000..31_000).contains(&port), "port {port}");
    let expected = translated(packet, member, port).bytes();
    assert_eq!(hex(&ran.bytes), hex(&expected));
    port
}

/// Sends a backend's packet, and compares what the client receives.
pub(crate) fn back(fixture: &mut Fixture, answer: &TestPacket, request: &TestPacket) {
    let ran = fixture.run(&answer.bytes());
    assert_eq!(ran.action, SENT);
    assert_eq!(hex(&ran.bytes), hex(&returned(answer, request).bytes()));
}

/// Sends a packet of every shape in both directions.
fn both_ways(packet: &TestPacket, follow: &TestPacket, member: u16) {
    let mut fixture = Fixture::new();
    let slot = if packet.source.is_ipv4() { 0 } else { V6_SLOTS } + u32::from(vip::NAT);
    fixture.set_slot(slot, Slot::owned_by(member, 0));
    let port = forward(&mut fixture, packet, member);
    let answer = answer(packet, member, port, SYN | ACK);
    back(&mut fixture, &answer, packet);
    assert_eq!(forward(&mut fixture, follow, member), port);
    fixture.check_counters();
    let counted = fixture.host.counters.borrow()[&member];
    assert_eq!((counted.packets, counted.replies), (2, 1));
    assert_eq!(counted.flows, 1);
}

#[test]
fn both_directions_are_translated() {
    for (is_v4, members) in [(true, [5, 6]), (false, [7, 8])] {
        for member in members {
            both_ways(&tcp(is_v4, SYN), &tcp(is_v4, ACK | FIN), member);
            both_ways(&udp(is_v4), &udp(is_v4), member);
        }
    }
}

#[test]
fn what_surrounds_the_ports_stays() {
    for is_v4 in [true, false] {
        let packet = TestPacket {
            tags: vec![(0x88a8, 0x6005), (0x8100, 0x0fff)],
            options: vec![1; 16],
            extensions: vec![
                (0, vec![0, 1, 4, 0, 0, 0, 0]),
                (60, vec![0, 1, 4, 0, 0, 0, 0]),
            ],
            tos: 0xbb,
            fragment: 0,
            padding: 3,
            ..tcp(is_v4, SYN)
        };
        let member = if is_v4 { 5 } else { 7 };
        both_ways(&packet, &packet, member);
    }
}

#[test]
fn a_datagram_without_a_checksum_keeps_none() {
    let packet = TestPacket {
        transport: Transport::Udp { checksum: false },
        ..udp(true)
    };
    both_ways(&packet, &packet, 6);
}

#[test]
fn a_checksum_that_becomes_zero_is_written_in_its_other_form() {
    for (is_v4, member) in [(true, 5), (false, 7)] {
        let mut fixture = Fixture::new();
        let packet = udp(is_v4);
        let port = forward(&mut fixture, &packet, member);
        // With these two bytes the sum of what the backend receives is all ones.
        let mut packet = TestPacket {
            payload: vec![0, 0],
            ..packet
        };
        let at = if is_v4 { 40 } else { 60 };
        let sent = translated(&packet, member, port).bytes();
        packet.payload = sent[at..at + 2].to_vec();
        let expected = translated(&packet, member, port).bytes();
        assert_eq!(expected[at..at + 2], [0xff, 0xff]);
        assert_eq!(forward(&mut fixture, &packet, member), port);
    }
}

#[test]
fn a_ttl_that_is_used_up_ends_the_packet_in_both_directions() {
    let mut fixture = Fixture::new();
    let packet = tcp(true, SYN);
    let port = forward(&mut fixture, &packet, 5);
    let answer = answer(&packet, 5, port, SYN | ACK);
    for ttl in [0, 1] {
        for packet in [&packet, &answer] {
            let packet = TestPacket {
                ttl,
                ..packet.clone()
            };
            let expired = Action::Drop(DropReason::TtlExpired);
            assert_eq!(fixture.run(&packet.bytes()).action, expired);
        }
    }
    let packet = TestPacket { ttl: 2, ..packet };
    assert_eq!(forward(&mut fixture, &packet, 5), port);
    back(&mut fixture, &TestPacket { ttl: 2, ..answer }, &packet);
}

#[test]
fn what_nobody_asked_for_passes_untouched() {
    let mut fixture = Fixture::new();
    let request = tcp(true, SYN);
    let port = forward(&mut fixture, &request, 5);
    let usual = answer(&request, 5, port, ACK);
    let from_elsewhere = |source: IpAddr| TestPacket {
        source,
        ..usual.clone()
    };
    for frame in [
        from_elsewhere(backend(6)).bytes(),
        answer(&request, 5, port ^ 1, ACK).bytes(),
        answer(&udp(true), 5, port, ACK).bytes(),
    ] {
        let ran = fixture.run(&frame);
        assert_eq!(ran.action, Action::Pass);
        assert_eq!(hex(&ran.bytes), hex(&frame));
    }
    // A truncated packet cannot be translated.
    let whole = usual.bytes();
    let action = fixture.run(&whole[..whole.len() - 1]).action;
    assert_eq!(action, Action::Drop(DropReason::Malformed));
    back(&mut fixture, &usual, &request);
}

#[test]
fn an_open_flow_that_is_not_known_is_reset_or_dropped() {
    let mut fixture = Fixture::new();
    for flags in [ACK, ACK | FIN, SYN | ACK] {
        let ran = fixture.run(&tcp(true, flags).bytes());
        assert_eq!(ran.action, SENT);
        assert_eq!(ran.bytes[47], RST, "answered with a reset");
        assert_eq!(ran.bytes[..12], [CLIENT_MAC, NODE_MAC].concat()[..]);
    }
    let unknown = Action::Drop(DropReason::NatUnknownFlow);
    assert_eq!(fixture.run(&tcp(true, RST).bytes()).action, unknown);
    fixture.set_flags(v4(vip::NAT), steer_common::abi::service_flags::HAS_NAT);
    assert_eq!(fixture.run(&tcp(true, ACK).bytes()).action, unknown);
    assert!(fixture.host.forward.borrow().is_empty());
}
