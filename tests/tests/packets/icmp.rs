//! ICMP errors about packets of flows, and those sent by the data path itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steer_common::{Action, abi::MemberState, verdict::DropReason};
use steer_tests::packet::{ACK, SYN, TestPacket, ethernet, icmp, ip_around};

use crate::{
    fixture::{Fixture, PORT, client, hex, macs_to, v4, v6, vip},
    nat::{answer, forward, returned, tcp, translated, udp},
};

const SENT: Action = Action::Transmit(1);
/// An MTU, in the word of "fragmentation needed" and of "packet too big".
const MTU: u32 = 1400;

fn router(is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(198, 51, 100, 1).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1).into()
    }
}

/// Returns a "too big" error about a packet, from an address to its sender.
fn error(from: IpAddr, about: &[u8], to: IpAddr, ttl: u8) -> Vec<u8> {
    let (kind, protocol) = if from.is_ipv4() {
        ([3, 4], 1)
    } else {
        ([2, 0], 58)
    };
    let message = icmp([from, to], kind, MTU, about);
    ip_around([from, to], ttl, protocol, &message)
}

fn framed(packet: &TestPacket, ip: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(packet.macs, &[], packet.source.is_ipv4());
    frame.extend(ip);
    frame
}

/// Returns the service's answer to a packet.
fn answered(packet: &TestPacket) -> TestPacket {
    TestPacket {
        source: packet.destination,
        destination: packet.source,
        source_port: packet.destination_port,
        destination_port: packet.source_port,
        ..packet.clone()
    }
}

#[test]
fn an_error_about_an_answer_reaches_the_backend_that_sent_it() {
    for (is_v4, member) in [(true, 1), (false, 3)] {
        let mut fixture = Fixture::new();
        let address = if is_v4 {
            v4(vip::EXACT)
        } else {
            v6(vip::EXACT)
        };
        for packet in [
            TestPacket::tcp(client(is_v4), (address, PORT), ACK),
            TestPacket::udp(client(is_v4), (address, PORT)),
        ] {
            let about = answered(&packet).ip();
            let header = if is_v4 { 20 } else { 40 };
            for quoted in [&about[..header + 8], &about[..]] {
                let sent = error(router(is_v4), quoted, packet.destination, 60);
                let ran = fixture.run(&framed(&packet, &sent));
                assert_eq!(ran.action, SENT);
                let inner = error(router(is_v4), quoted, packet.destination, 59);
                let outer = if is_v4 { 34 } else { 54 };
                assert_eq!(hex(&ran.bytes[outer..]), hex(&inner));
                assert_eq!(ran.bytes[..12], macs_to(member).concat());
            }
        }
    }
}

#[test]
fn an_error_about_a_translated_answer_is_translated_back() {
    for (is_v4, member) in [(true, 5), (false, 7)] {
        for (packet, whole) in [
            (tcp(is_v4, SYN), true),
            (tcp(is_v4, SYN), false),
            (udp(is_v4), true),
            (udp(is_v4), false),
        ] {
            let mut fixture = Fixture::new();
            let port = forward(&mut fixture, &packet, member);
            let from_backend = answer(&packet, member, port, ACK | SYN);
            let about = returned(&from_backend, &packet);
            let len = if whole {
                about.ip().len()
            } else {
                about.transport_at() - 14 + 8
            };
            let sent = error(router(is_v4), &about.ip()[..len], packet.destination, 60);
            let ran = fixture.run(&framed(&packet, &sent));
            assert_eq!(ran.action, SENT);
            // As the backend would have received it from a router: about its own packet, with the
            // TTL that the router saw.
            let own = TestPacket {
                ttl: about.ttl,
                ..from_backend.clone()
            };
            let expected = error(
                translated(&packet, member, port).source,
                &own.ip()[..len],
                from_backend.source,
                59,
            );
            let expected = framed(&translated(&packet, member, port), &expected);
            assert_eq!(hex(&ran.bytes), hex(&expected), "{packet:?}");
        }
    }
}

#[test]
fn an_error_about_a_translated_request_reaches_the_client() {
    for (is_v4, member) in [(true, 6), (false, 8)] {
        let mut fixture = Fixture::new();
        let slot = if is_v4 { 0 } else { crate::fixture::V6_SLOTS } + u32::from(vip::NAT);
        fixture.set_slot(slot, steer_common::abi::Slot::owned_by(member, 0));
        for packet in [tcp(is_v4, SYN), udp(is_v4)] {
            let port = forward(&mut fixture, &packet, member);
            let request = translated(&packet, member, port);
            let sent = error(request.destination, &request.ip(), request.source, 60);
            let from_backend = answer(&packet, member, port, ACK);
            let ran = fixture.run(&framed(&from_backend, &sent));
            assert_eq!(ran.action, SENT);
            let own = TestPacket {
                ttl: request.ttl,
                ..packet.clone()
            };
            let expected = error(packet.destination, &own.ip(), packet.source, 59);
            let expected = framed(&returned(&from_backend, &packet), &expected);
            assert_eq!(hex(&ran.bytes), hex(&expected));
        }
    }
}

#[test]
fn what_is_no_error_about_a_flow_passes_untouched() {
    let mut fixture = Fixture::new();
    for is_v4 in [true, false] {
        let address = if is_v4 {
            v4(vip::EXACT)
        } else {
            v6(vip::EXACT)
        };
        let nat = if is_v4 { v4(vip::NAT) } else { v6(vip::NAT) };
        let packet = TestPacket::udp(client(is_v4), (address, PORT));
        let about = answered(&packet);
        let protocol = if is_v4 { 1 } else { 58 };
        let message = |kind: [u8; 2], about: &TestPacket| {
            let addresses = [router(is_v4), address];
            let message = icmp(addresses, kind, 0, &about.ip());
            ip_around(addresses, 60, protocol, &message)
        };
        let unreachable = if is_v4 { [3, 1] } else { [1, 3] };
        let cases = [
            // Echo request and reply; redirect; router solicitation.
            message(if is_v4 { [8, 0] } else { [128, 0] }, &about),
            message(if is_v4 { [0, 0] } else { [129, 0] }, &about),
            message(if is_v4 { [5, 1] } else { [137, 0] }, &about),
            message(if is_v4 { [10, 0] } else { [133, 0] }, &about),
            // About a packet that the address did not send, and about one to no service.
            message(unreachable, &packet),
            message(
                unreachable,
                &TestPacket {
                    source_port: PORT + 1,
                    ..about.clone()
                },
            ),
            // About a fragment without the ports.
            ip_around([router(is_v4), address], 60, protocol, &{
                let part = &about.fragments(8)[1][14..];
                icmp([router(is_v4), address], unreachable, 0, part)
            }),
            // About a flow that is not in the nat table.
            {
                let about = TestPacket {
                    source: nat,
                    ..about.clone()
                };
                error(router(is_v4), &about.ip(), nat, 60)
            },
        ];
        for ip in &cases {
            let frame = framed(&packet, ip);
            let ran = fixture.run(&frame);
            assert_eq!((ran.action, hex(&ran.bytes)), (Action::Pass, hex(&frame)));
        }
        // Cut anywhere before the quoted ports.
        let whole = framed(&packet, &message(unreachable, &about));
        let ports = if is_v4 {
            14 + 20 + 8 + 20
        } else {
            14 + 40 + 8 + 40
        } + 4;
        for len in (14..ports).step_by(3) {
            assert_eq!(fixture.run(&whole[..len]).action, Action::Pass, "{len}");
        }
        assert_eq!(fixture.run(&whole).action, SENT);
    }
}

#[test]
fn an_error_about_a_flow_whose_backend_is_down_is_not_answered_with_a_reset() {
    let mut fixture = Fixture::new();
    for id in [1, 2] {
        fixture.set_state(id, MemberState::Down);
    }
    let packet = TestPacket::tcp(client(true), (v4(vip::EXACT), PORT), ACK);
    let about = answered(&packet).ip();
    let sent = error(router(true), &about, packet.destination, 60);
    let ran = fixture.run(&framed(&packet, &sent));
    assert_eq!(ran.action, Action::Drop(DropReason::MemberDown));
}

/// Returns the answer to a packet that is too big.
pub(crate) fn too_big(packet: &TestPacket, mtu: u32) -> Vec<u8> {
    let addresses = [packet.destination, packet.source];
    let (kind, protocol) = if packet.source.is_ipv4() {
        ([3, 4], 1)
    } else {
        ([2, 0], 58)
    };
    let message = icmp(addresses, kind, mtu, &packet.ip()[..128]);
    let macs = [packet.macs[1], packet.macs[0]];
    let mut frame = ethernet(macs, &packet.tags, packet.source.is_ipv4());
    frame.extend(ip_around(addresses, 64, protocol, &message));
    frame
}

#[test]
fn the_sender_of_a_packet_that_is_too_big_learns_how_big_it_may_be() {
    for (is_v4, vip, member, overhead) in [
        (true, vip::EXACT, 1, 20),
        (false, vip::EXACT, 3, 40),
        (true, vip::CROSS, 3, 40),
        (false, vip::CROSS, 1, 20),
        (true, vip::NAT, 5, 0),
        (false, vip::NAT, 7, 0),
    ] {
        let mut fixture = Fixture::new();
        fixture.change(member, |member| member.mtu = 1500);
        let address = if is_v4 { v4(vip) } else { v6(vip) };
        let mut packet = TestPacket::udp(client(is_v4), (address, PORT));
        let headers = if is_v4 { 28 } else { 48 };
        packet.payload = vec![7; 1500 - overhead - headers];
        assert_eq!(fixture.run(&packet.bytes()).bytes[..6], macs_to(member)[0]);
        packet.payload.push(7);
        for tags in [vec![], vec![(0x8100, 9)], vec![(0x88a8, 9), (0x8100, 8)]] {
            packet.tags = tags;
            let ran = fixture.run(&packet.bytes());
            assert_eq!(ran.action, SENT);
            let expected = too_big(&packet, 1500 - overhead as u32);
            assert_eq!(hex(&ran.bytes), hex(&expected), "{is_v4} {vip}");
        }
    }
}
