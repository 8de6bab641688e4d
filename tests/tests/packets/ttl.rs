//! Packets whose TTL expires at the node: their sender is informed by the node's address on the
//! link.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use steer_common::{
    Action,
    abi::{IcmpSource, LinkKey, Mode},
    verdict::DropReason,
};
use steer_tests::packet::{ACK, SYN, TestPacket, ethernet, icmp, ip_around};

use crate::{
    fixture::{Fixture, PORT, client, hex, macs_to, v4, v6, vip},
    nat::{answer, forward, tcp, udp},
};

const SENT: Action = Action::Transmit(1);
const EXPIRED: Action = Action::Drop(DropReason::TtlExpired);
/// Source addresses for a frame without tags, and for one with this VLAN.
const NODE: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 9),
    Ipv4Addr::new(198, 51, 100, 30),
];
const NODE_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9),
    Ipv6Addr::new(0x2001, 0xdb8, 30, 0, 0, 0, 0, 9),
];
const VLAN: u16 = 30;

fn link(vlan: u16) -> LinkKey {
    LinkKey {
        interface: 1,
        vlan,
        _pad: 0,
    }
}

/// Returns a node with addresses.
fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    let sources = [0, 1].map(|i| {
        let source = IcmpSource {
            v4: NODE[i].into(),
            v6: NODE_V6[i].into(),
        };
        (link([0, VLAN][i]), source)
    });
    set_sources(&mut fixture, sources.into());
    fixture
}

fn set_sources(fixture: &mut Fixture, sources: HashMap<LinkKey, IcmpSource>) {
    fixture.xdp.maps().set_icmp_sources(&sources).unwrap();
    fixture.copy();
    assert_eq!(fixture.host.snapshot().icmp_sources, sources);
}

/// Returns the answer to a packet.
fn exceeded(packet: &TestPacket) -> Vec<u8> {
    let is_v4 = packet.source.is_ipv4();
    let tagged = usize::from(!packet.tags.is_empty());
    let from: IpAddr = if is_v4 {
        NODE[tagged].into()
    } else {
        NODE_V6[tagged].into()
    };
    let (kind, protocol) = if is_v4 { ([11, 0], 1) } else { ([3, 0], 58) };
    let about = packet.ip();
    let addresses = [from, packet.source];
    let message = icmp(addresses, kind, 0, &about[..about.len().min(128) & !3]);
    let mut frame = ethernet([packet.macs[1], packet.macs[0]], &packet.tags, is_v4);
    frame.extend(ip_around(addresses, 64, protocol, &message));
    frame
}

#[test]
fn the_sender_of_a_packet_that_ends_here_learns_where() {
    let mut fixture = fixture();
    for (is_v4, vip) in [
        (true, vip::EXACT),
        (false, vip::EXACT),
        (true, vip::CROSS),
        (false, vip::CROSS),
        (true, vip::NAT),
        (false, vip::NAT),
    ] {
        let address = if is_v4 { v4(vip) } else { v6(vip) };
        for mut packet in [
            TestPacket::tcp(client(is_v4), (address, PORT), SYN),
            TestPacket::udp(client(is_v4), (address, PORT)),
        ] {
            for ttl in [0, 1] {
                packet.ttl = ttl;
                for tags in [
                    vec![],
                    vec![(0x8100, VLAN)],
                    vec![(0x88a8, VLAN), (0x8100, 8)],
                ] {
                    packet.tags = tags;
                    for payload in [0, 1, 2, 3, 9, 60, 100, 128, 700] {
                        packet.payload = vec![7; payload];
                        packet.padding = if payload == 0 { 6 } else { 0 };
                        let ran = fixture.run(&packet.bytes());
                        assert_eq!(ran.action, SENT, "{packet:?}");
                        assert_eq!(hex(&ran.bytes), hex(&exceeded(&packet)), "{packet:?}");
                    }
                }
            }
        }
    }
    // A SYN that ends here takes no port.
    assert!(fixture.host.forward.borrow().is_empty());
    fixture.check_counters();
}

#[test]
fn a_backend_learns_where_its_answer_ended() {
    let mut fixture = fixture();
    for (is_v4, member) in [(true, 5), (false, 7)] {
        for request in [tcp(is_v4, SYN), udp(is_v4)] {
            let port = forward(&mut fixture, &request, member);
            let last = TestPacket {
                ttl: 1,
                ..answer(&request, member, port, SYN | ACK)
            };
            let ran = fixture.run(&last.bytes());
            assert_eq!(ran.action, SENT);
            assert_eq!(hex(&ran.bytes), hex(&exceeded(&last)));
        }
    }
}

#[test]
fn options_are_quoted_with_the_header_that_has_them() {
    let mut fixture = fixture();
    let packet = TestPacket {
        ttl: 1,
        options: vec![1; 40],
        ..TestPacket::udp(client(true), (v4(vip::EXACT), PORT))
    };
    let ran = fixture.run(&packet.bytes());
    assert_eq!(hex(&ran.bytes), hex(&exceeded(&packet)));
}

#[test]
fn what_is_not_from_one_host_is_not_answered() {
    let mut fixture = fixture();
    let sources_v4 = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.5",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
    ];
    let sources_v6 = ["::", "::1", "ff02::1", "ff0e::7"];
    for source in sources_v4.into_iter().chain(sources_v6) {
        let source: IpAddr = source.parse().unwrap();
        let address = if source.is_ipv4() {
            v4(vip::EXACT)
        } else {
            v6(vip::EXACT)
        };
        let packet = TestPacket {
            ttl: 1,
            ..TestPacket::udp((source, 4000), (address, PORT))
        };
        let action = fixture.run(&packet.bytes()).action;
        assert!(matches!(action, Action::Drop(_)), "{source}: {action:?}");
    }
    for group in [
        [0xff; 6],
        [0x01, 0, 0x5e, 0, 0, 5],
        [0x33, 0x33, 0, 0, 0, 1],
    ] {
        let mut packet = TestPacket::udp(client(true), (v4(vip::EXACT), PORT));
        packet.ttl = 1;
        packet.macs[0] = group;
        assert_ne!(fixture.run(&packet.bytes()).action, SENT);
    }
}

#[test]
fn parts_of_packets_and_icmp_errors_are_not_answered() {
    let mut fixture = fixture();
    for is_v4 in [true, false] {
        let address = if is_v4 {
            v4(vip::EXACT)
        } else {
            v6(vip::EXACT)
        };
        let mut packet = TestPacket::udp(client(is_v4), (address, PORT));
        packet.payload = vec![7; 3000];
        packet.ttl = 1;
        for fragment in packet.fragments(1200) {
            assert_eq!(fixture.run(&fragment).action, EXPIRED);
        }
        let about = TestPacket {
            source: packet.destination,
            destination: packet.source,
            source_port: packet.destination_port,
            destination_port: packet.source_port,
            payload: vec![7; 30],
            ..packet.clone()
        };
        let (kind, protocol) = if is_v4 { ([3, 4], 1) } else { ([2, 0], 58) };
        let addresses = [packet.source, packet.destination];
        let message = icmp(addresses, kind, 1400, &about.ip());
        let mut frame = ethernet(packet.macs, &[], is_v4);
        frame.extend(ip_around(addresses, 1, protocol, &message));
        assert_eq!(fixture.run(&frame).action, EXPIRED);
    }
}

#[test]
fn a_link_without_an_address_answers_nothing() {
    let mut fixture = fixture();
    let mut packet = TestPacket::udp(client(true), (v4(vip::EXACT), PORT));
    packet.ttl = 1;
    packet.tags = vec![(0x8100, VLAN + 1)];
    assert_eq!(fixture.run(&packet.bytes()).action, EXPIRED);
    let only_v6 = IcmpSource {
        v6: NODE_V6[0].into(),
        ..IcmpSource::default()
    };
    set_sources(&mut fixture, [(link(0), only_v6)].into());
    packet.tags.clear();
    assert_eq!(fixture.run(&packet.bytes()).action, EXPIRED);
    let mut packet = TestPacket::udp(client(false), (v6(vip::EXACT), PORT));
    packet.ttl = 1;
    assert_eq!(
        hex(&fixture.run(&packet.bytes()).bytes),
        hex(&exceeded(&packet))
    );
}

/// Checks that a loop of two nodes that use each other as backend ends.
#[test]
fn a_loop_of_nodes_in_mode_l2_ends() {
    let mut fixture = fixture();
    for (is_v4, member) in [(true, 1), (false, 3)] {
        fixture.change(member, |member| member.mode = Mode::L2 as u8);
        let address = if is_v4 {
            v4(vip::EXACT)
        } else {
            v6(vip::EXACT)
        };
        let mut packet = TestPacket::tcp(client(is_v4), (address, PORT), ACK);
        packet.ttl = 9;
        let mut frame = packet.bytes();
        for ttl in (1..9).rev() {
            let ran = fixture.run(&frame);
            assert_eq!(ran.action, SENT);
            packet.ttl = ttl;
            packet.macs = macs_to(member);
            assert_eq!(hex(&ran.bytes), hex(&packet.bytes()));
            frame = ran.bytes;
        }
        // The last one informs the client.
        assert_eq!(hex(&fixture.run(&frame).bytes), hex(&exceeded(&packet)));
    }
}
