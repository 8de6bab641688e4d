//! Mode `ipip`.

use std::net::IpAddr;

use steer_common::{Action, verdict::DropReason};
use steer_tests::packet::{ACK, SYN, TestPacket, Transport, ethernet, ipv4_header, ipv6_header};

use crate::fixture::{
    Fixture, OUTER_V4, OUTER_V6, PORT, Ran, backend, client, hex, macs_to, v4, v6, vip,
};

/// Returns the frame to an IPv4 member: the outer header before the packet, whose TTL is
/// decremented.
pub(crate) fn outer_v4(packet: &TestPacket, member: u16) -> Vec<u8> {
    let IpAddr::V4(destination) = backend(member) else {
        panic!("member {member} is not IPv4");
    };
    let inner = TestPacket {
        ttl: packet.ttl - 1,
        ..packet.clone()
    }
    .ip();
    let (id, fragment, protocol) = match packet.source {
        IpAddr::V4(_) => (packet.id, packet.fragment & 0x4000, 4),
        IpAddr::V6(_) => (0, 0x4000, 41),
    };
    let mut frame = ethernet(macs_to(member), &packet.tags, true);
    frame.extend(ipv4_header(
        packet.tos,
        20 + inner.len(),
        (id, fragment),
        (64, protocol),
        [OUTER_V4.octets(), destination.octets()],
        &[],
    ));
    frame.extend(inner);
    frame.extend(vec![0; packet.padding]);
    frame
}

/// Returns the frame to an IPv6 member. The flow label is taken from the program's output.
pub(crate) fn outer_v6(packet: &TestPacket, member: u16, sent: &[u8]) -> Vec<u8> {
    let IpAddr::V6(destination) = backend(member) else {
        panic!("member {member} is not IPv6");
    };
    let inner = TestPacket {
        ttl: packet.ttl - 1,
        ..packet.clone()
    }
    .ip();
    let at = 14 + 4 * packet.tags.len();
    let label = u32::from_be_bytes(sent[at..at + 4].try_into().unwrap()) & 0xf_ffff;
    let protocol = if packet.source.is_ipv4() { 4 } else { 41 };
    let mut frame = ethernet(macs_to(member), &packet.tags, false);
    frame.extend(ipv6_header(
        (packet.tos, label),
        inner.len(),
        (protocol, 64),
        [OUTER_V6.octets(), destination.octets()],
    ));
    frame.extend(inner);
    frame.extend(vec![0; packet.padding]);
    frame
}

fn expect(packet: &TestPacket, member: u16) {
    let mut fixture = Fixture::new();
    let Ran { action, bytes } = fixture.run(&packet.bytes());
    assert_eq!(action, Action::Transmit(1));
    let expected = if backend(member).is_ipv4() {
        outer_v4(packet, member)
    } else {
        outer_v6(packet, member, &bytes)
    };
    assert_eq!(crate::fixture::hex(&bytes), crate::fixture::hex(&expected));
    fixture.check_counters();
}

fn tcp(v4_client: bool, vip: u8, flags: u8) -> TestPacket {
    let address = if v4_client { v4(vip) } else { v6(vip) };
    TestPacket::tcp(client(v4_client), (address, PORT), flags)
}

#[test]
fn a_syn_and_what_follows_go_to_the_first_choice() {
    for flags in [SYN, ACK, ACK | 8, ACK | 1, 4] {
        expect(&tcp(true, vip::EXACT, flags), 1);
        expect(&tcp(false, vip::EXACT, flags), 3);
    }
}

#[test]
fn any_port_and_udp_are_steered() {
    for port in [1, 443, 65_535] {
        expect(&TestPacket::tcp(client(true), (v4(vip::ANY), port), SYN), 1);
        expect(&TestPacket::udp(client(true), (v4(vip::ANY), port)), 1);
        expect(&TestPacket::udp(client(false), (v6(vip::ANY), port)), 3);
    }
}

#[test]
fn families_may_differ_inside_and_outside() {
    expect(&tcp(true, vip::CROSS, SYN), 3);
    expect(&tcp(false, vip::CROSS, SYN), 1);
}

#[test]
fn tags_are_those_of_the_way_to_the_member() {
    for tags in [
        vec![],
        vec![(0x8100, 0x2064)],
        vec![(0x88a8, 100), (0x8100, 0xe0c8)],
    ] {
        for vlan in [0, 77] {
            for (v4_client, member) in [(true, 1), (false, 3)] {
                let packet = TestPacket {
                    tags: tags.clone(),
                    ..tcp(v4_client, vip::EXACT, ACK)
                };
                let mut fixture = Fixture::new();
                fixture.change(member, |member| member.vlan = vlan);
                let ran = fixture.run(&packet.bytes());
                let sent = TestPacket {
                    tags: if vlan == 0 {
                        vec![]
                    } else {
                        vec![(0x8100, vlan)]
                    },
                    ..packet
                };
                let expected = if v4_client {
                    outer_v4(&sent, member)
                } else {
                    outer_v6(&sent, member, &ran.bytes)
                };
                assert_eq!(hex(&ran.bytes), hex(&expected), "{tags:?} to {vlan}");
            }
        }
    }
}

#[test]
fn options_and_extension_headers_stay_inside() {
    let packet = TestPacket {
        options: vec![7, 7, 4, 0, 0, 0, 0, 0],
        ..tcp(true, vip::EXACT, ACK)
    };
    expect(&packet, 1);
    let option = |len: usize| {
        let mut content = vec![(len / 8 - 1) as u8, 1, len as u8 - 4];
        content.resize(len - 1, 0);
        content
    };
    for extensions in [
        vec![(0, option(8))],
        vec![(0, option(16)), (60, option(8))],
        vec![(43, vec![0, 0, 0, 0, 0, 0, 0])],
        vec![(0, option(8)), (60, option(24)), (60, option(8))],
    ] {
        let packet = TestPacket {
            extensions,
            ..tcp(false, vip::EXACT, ACK)
        };
        expect(&packet, 3);
    }
}

#[test]
fn type_of_service_and_dont_fragment_are_copied() {
    for (tos, fragment) in [(0, 0), (0xb8, 0x4000), (0x03, 0x4000), (0x01, 0), (0xff, 0)] {
        for (v4_client, member) in [(true, 1), (false, 3)] {
            let packet = TestPacket {
                tos,
                fragment,
                ..tcp(v4_client, vip::EXACT, ACK)
            };
            expect(&packet, member);
        }
        let packet = TestPacket {
            tos,
            ..tcp(true, vip::CROSS, ACK)
        };
        expect(&packet, 3);
    }
}

#[test]
fn a_ttl_that_is_used_up_ends_the_packet() {
    let mut fixture = Fixture::new();
    for ttl in [0, 1] {
        for v4_client in [true, false] {
            let packet = TestPacket {
                ttl,
                ..tcp(v4_client, vip::EXACT, ACK)
            };
            let ran = fixture.run(&packet.bytes());
            assert_eq!(ran.action, Action::Drop(DropReason::TtlExpired));
        }
    }
    let packet = TestPacket {
        ttl: 2,
        ..tcp(true, vip::EXACT, ACK)
    };
    expect(&packet, 1);
}

#[test]
fn padding_behind_the_packet_is_not_counted() {
    let packet = TestPacket {
        payload: Vec::new(),
        padding: 6,
        ..tcp(true, vip::EXACT, ACK)
    };
    expect(&packet, 1);
    let packet = TestPacket {
        transport: Transport::Udp { checksum: false },
        payload: vec![1],
        padding: 17,
        ..tcp(true, vip::EXACT, ACK)
    };
    expect(&packet, 1);
}
