//! Modes `gue` and `l2`, and outer sources that vary by flow.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use steer_common::{
    Action,
    abi::{Mode, member_flags},
    verdict::DropReason,
};
use steer_tests::packet::{
    ACK, TestPacket, Transport, checksum, ethernet, ipv4_header, ipv6_header,
};

use crate::fixture::{
    Fixture, OUTER_V4, OUTER_V6, PORT, backend, client, hex, macs_to, v4, v6, vip,
};

const SENT: Action = Action::Transmit(1);
const GUE_PORT: u16 = 6080;

fn tcp(is_v4: bool, vip: u8) -> TestPacket {
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    TestPacket::tcp(client(is_v4), (address, PORT), ACK)
}

fn udp(is_v4: bool, vip: u8) -> TestPacket {
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    TestPacket::udp(client(is_v4), (address, PORT))
}

fn with_mode(mode: Mode) -> Fixture {
    let mut fixture = Fixture::new();
    for id in 1..=4 {
        fixture.change(id, |member| member.mode = mode as u8);
    }
    fixture
}

/// Returns the frame to a member; the source port and the flow label are taken from the program's
/// output.
fn wrapped(packet: &TestPacket, member: u16, sent: &[u8], covered: bool) -> Vec<u8> {
    let inner = TestPacket {
        ttl: packet.ttl - 1,
        ..packet.clone()
    }
    .ip();
    let to = backend(member);
    let outer = if to.is_ipv4() { 20 } else { 40 };
    let at = 14 + outer;
    let source_port = u16::from_be_bytes([sent[at], sent[at + 1]]);
    assert!(source_port >= 0xc000, "a dynamic port");
    let len = 8 + inner.len();
    let mut datagram = source_port.to_be_bytes().to_vec();
    datagram.extend(GUE_PORT.to_be_bytes());
    datagram.extend((len as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(&inner);
    let mut frame = ethernet(macs_to(member), &[], to.is_ipv4());
    match to {
        IpAddr::V4(to) => {
            let (id, fragment) = match packet.source {
                IpAddr::V4(_) => (packet.id, packet.fragment & 0x4000),
                IpAddr::V6(_) => (0, 0x4000),
            };
            frame.extend(ipv4_header(
                packet.tos,
                20 + len,
                (id, fragment),
                (64, 17),
                [OUTER_V4.octets(), to.octets()],
                &[],
            ));
        }
        IpAddr::V6(to) => {
            if covered {
                let mut all = OUTER_V6.octets().to_vec();
                all.extend(to.octets());
                all.extend((len as u32).to_be_bytes());
                all.extend([0, 0, 0, 17]);
                all.extend(&datagram);
                let sum = match checksum(&all) {
                    0 => 0xffff,
                    sum => sum,
                };
                datagram[6..8].copy_from_slice(&u16::to_be_bytes(sum));
            }
            let label = u32::from_be_bytes(sent[14..18].try_into().unwrap()) & 0xf_ffff;
            frame.extend(ipv6_header(
                (packet.tos, label),
                len,
                (17, 64),
                [OUTER_V6.octets(), to.octets()],
            ));
        }
    }
    frame.extend(datagram);
    frame
}

#[test]
fn gue_is_wrapped_in_udp_with_a_checksum_where_ipv6_wants_one() {
    let mut fixture = with_mode(Mode::Gue);
    for (is_v4, vip, member) in [
        (true, vip::EXACT, 1),
        (false, vip::EXACT, 3),
        (true, vip::CROSS, 3),
        (false, vip::CROSS, 1),
    ] {
        let odd = TestPacket {
            tos: 0xb9,
            options: vec![1; 8],
            ..tcp(is_v4, vip)
        };
        let silent = TestPacket {
            transport: Transport::Udp { checksum: false },
            ..udp(is_v4, vip)
        };
        let mut cases = vec![
            (tcp(is_v4, vip), true),
            (udp(is_v4, vip), true),
            (odd, true),
        ];
        if is_v4 {
            // No checksum covers its payload, so errors in it cannot be detected without reading
            // it.
            cases.push((silent, false));
        }
        for (packet, covered) in cases {
            let ran = fixture.run(&packet.bytes());
            assert_eq!(ran.action, SENT);
            let expected = wrapped(&packet, member, &ran.bytes, covered);
            assert_eq!(hex(&ran.bytes), hex(&expected), "{packet:?}");
        }
    }
    fixture.check_counters();
}

#[test]
fn flows_have_source_ports_of_their_own() {
    let mut fixture = with_mode(Mode::Gue);
    let mut ports = HashSet::new();
    for port in 0..64 {
        let mut packet = udp(true, vip::EXACT);
        packet.source_port = 2000 + port;
        let first = fixture.run(&packet.bytes()).bytes;
        let again = fixture.run(&packet.bytes()).bytes;
        assert_eq!(first, again);
        ports.insert([first[34], first[35]]);
    }
    assert!(ports.len() > 55, "{} of 64", ports.len());
}

#[test]
fn outer_sources_are_spread_over_a_prefix() {
    let mut fixture = Fixture::new();
    fixture.configure(|config| {
        config.outer_v4 = Ipv4Addr::new(10, 98, 0, 0).into();
        config.outer_v4_bits = 8;
        config.outer_v6_bits = 16;
        config.outer_v6 = Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 0).into();
    });
    let mut sources = HashSet::new();
    for port in 0..64 {
        for is_v4 in [true, false] {
            let mut packet = tcp(is_v4, vip::EXACT);
            packet.source_port = 2000 + port;
            let ran = fixture.run(&packet.bytes());
            if is_v4 {
                let header: [u8; 20] = ran.bytes[14..34].try_into().unwrap();
                assert_eq!(header[12..15], [10, 98, 0]);
                assert_eq!(checksum(&header), 0, "of the outer header");
                sources.insert(header[15] as u16);
            } else {
                assert_eq!(ran.bytes[22..36], OUTER_V6.octets()[..14]);
                sources.insert(u16::from_be_bytes([ran.bytes[36], ran.bytes[37]]) | 0x100);
            }
        }
    }
    assert!(sources.len() > 90, "{} of 128", sources.len());
}

#[test]
fn l2_changes_the_ttl_and_what_is_before_the_ip_header() {
    let mut fixture = with_mode(Mode::L2);
    for (is_v4, member) in [(true, 1), (false, 3)] {
        for vlan in [0, 12] {
            fixture.change(member, |member| member.vlan = vlan);
            for tags in [vec![], vec![(0x8100, 5)], vec![(0x88a8, 5), (0x8100, 6)]] {
                let packet = TestPacket {
                    ttl: 2,
                    tags,
                    padding: 3,
                    ..tcp(is_v4, vip::EXACT)
                };
                let ran = fixture.run(&packet.bytes());
                assert_eq!(ran.action, SENT);
                let expected = TestPacket {
                    macs: macs_to(member),
                    tags: if vlan == 0 {
                        vec![]
                    } else {
                        vec![(0x8100, vlan)]
                    },
                    ttl: 1,
                    ..packet
                };
                assert_eq!(hex(&ran.bytes), hex(&expected.bytes()));
            }
        }
    }
}

#[test]
fn l2_never_goes_by_a_gateway() {
    let mut fixture = with_mode(Mode::L2);
    fixture.change(1, |member| member.flags &= !member_flags::RESOLVED);
    let ran = fixture.run(&tcp(true, vip::EXACT).bytes());
    assert_eq!(ran.action, Action::Drop(DropReason::NoRoute));
}
