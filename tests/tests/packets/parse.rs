//! Parsing: packets of a service, malformed ones, and those left to the kernel.

use steer_common::{Action, verdict::DropReason};
use steer_tests::packet::{ACK, SYN, TestPacket, Transport, checksum};

use crate::fixture::{Fixture, PORT, client, hex, v4, v6, vip};

const MALFORMED: Action = Action::Drop(DropReason::Malformed);
const STEERED: Action = Action::Transmit(1);

fn tcp(is_v4: bool, vip: u8) -> TestPacket {
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    TestPacket::tcp(client(is_v4), (address, PORT), ACK)
}

fn udp(is_v4: bool, vip: u8) -> TestPacket {
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    TestPacket::udp(client(is_v4), (address, PORT))
}

fn expect_pass(fixture: &mut Fixture, frame: &[u8]) {
    let ran = fixture.run(frame);
    assert_eq!(ran.action, Action::Pass, "{:?}", hex(frame));
    assert_eq!(hex(&ran.bytes), hex(frame), "passed, but not untouched");
}

/// Sets bytes of an IPv4 header without options or tags, and updates its checksum.
fn with_v4(packet: &TestPacket, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = packet.bytes();
    change(&mut frame[14..34]);
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// Returns the content of an extension header of `len` bytes with padding only.
fn padding_options(len: usize) -> Vec<u8> {
    let mut content = vec![(len / 8 - 1) as u8, 1, len as u8 - 4];
    content.resize(len - 1, 0);
    content
}

fn shapes(vip: u8) -> Vec<TestPacket> {
    let mut shapes = Vec::new();
    for packet in [
        tcp(true, vip),
        udp(true, vip),
        tcp(false, vip),
        udp(false, vip),
    ] {
        let tagged = TestPacket {
            tags: vec![(0x88a8, 9), (0x8100, 8)],
            ..packet.clone()
        };
        let longer = TestPacket {
            options: vec![1; 12],
            extensions: vec![(0, padding_options(8)), (60, padding_options(16))],
            ..packet.clone()
        };
        shapes.extend([packet, tagged, longer]);
    }
    shapes
}

#[test]
fn a_packet_that_is_cut_is_left_alone_until_its_ports_are_there() {
    let mut fixture = Fixture::new();
    for packet in shapes(vip::EXACT) {
        let frame = packet.bytes();
        let ports_end = packet.transport_at() + 4;
        for len in 14..=frame.len() {
            let frame_cut = &frame[..len];
            if len < ports_end {
                expect_pass(&mut fixture, frame_cut);
                continue;
            }
            let expected = if len < frame.len() {
                MALFORMED
            } else {
                STEERED
            };
            assert_eq!(
                fixture.run(frame_cut).action,
                expected,
                "{len} of {packet:?}"
            );
        }
    }
}

#[test]
fn what_is_not_for_a_service_is_left_alone_wherever_it_is_cut() {
    let mut fixture = Fixture::new();
    for packet in shapes(vip::UNKNOWN) {
        let frame = packet.bytes();
        for len in (14..frame.len()).step_by(7).chain([frame.len()]) {
            expect_pass(&mut fixture, &frame[..len]);
        }
    }
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let mut fixture = Fixture::new();
    let set_len = |len: usize| {
        with_v4(&tcp(true, vip::EXACT), |header| {
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        })
    };
    let whole = tcp(true, vip::EXACT).bytes().len() - 14;
    // IP, and TCP with one option of four bytes.
    let headers = 20 + 24;
    for (len, expected) in [
        (0, MALFORMED),
        (19, MALFORMED),
        (headers - 1, MALFORMED),
        (headers, STEERED),
        (whole - 1, STEERED),
        (whole, STEERED),
        (whole + 1, MALFORMED),
        (0xffff, MALFORMED),
    ] {
        assert_eq!(fixture.run(&set_len(len)).action, expected, "length {len}");
    }

    let payload_len = tcp(false, vip::EXACT).bytes().len() - 54;
    for (len, expected) in [
        (0, MALFORMED),
        (23, MALFORMED),
        (24, STEERED),
        (payload_len, STEERED),
        (payload_len + 1, MALFORMED),
        (0xffff, MALFORMED),
    ] {
        let mut frame = tcp(false, vip::EXACT).bytes();
        frame[18..20].copy_from_slice(&(len as u16).to_be_bytes());
        assert_eq!(fixture.run(&frame).action, expected, "payload length {len}");
    }
}

#[test]
fn a_transport_header_of_an_impossible_length_is_malformed() {
    let mut fixture = Fixture::new();
    for words in 0..16_u8 {
        let packet = tcp(true, vip::EXACT);
        let mut frame = packet.bytes();
        frame[46] = words << 4;
        let segment = frame.len() - 34;
        let fits = words >= 5 && usize::from(words) * 4 <= segment;
        let expected = if fits { STEERED } else { MALFORMED };
        assert_eq!(fixture.run(&frame).action, expected, "data offset {words}");
    }
    for (len, expected) in [(0_u16, MALFORMED), (7, MALFORMED), (8, STEERED)] {
        let mut frame = udp(true, vip::EXACT).bytes();
        frame[38..40].copy_from_slice(&len.to_be_bytes());
        assert_eq!(fixture.run(&frame).action, expected, "UDP length {len}");
    }
}

#[test]
fn a_header_of_another_version_or_too_short_is_left_alone() {
    let mut fixture = Fixture::new();
    for first in [0x00, 0x05, 0x40, 0x44, 0x55, 0x65, 0xf5] {
        let frame = with_v4(&tcp(true, vip::EXACT), |header| header[0] = first);
        expect_pass(&mut fixture, &frame);
    }
    for first in [0x00, 0x40, 0x45, 0x50, 0x70] {
        let mut frame = tcp(false, vip::EXACT).bytes();
        frame[14] = first;
        expect_pass(&mut fixture, &frame);
    }
}

#[test]
fn other_protocols_are_left_alone() {
    let mut fixture = Fixture::new();
    // ICMP, IGMP, IP in IP, IPv6, GRE, ESP, AH, SCTP.
    for protocol in [1, 2, 4, 41, 47, 50, 51, 132, 255] {
        let frame = with_v4(&tcp(true, vip::EXACT), |header| header[9] = protocol);
        expect_pass(&mut fixture, &frame);
    }
    // ICMPv6, no next header, ESP, mobility, HIP.
    for protocol in [1, 58, 59, 50, 135, 139] {
        let mut frame = tcp(false, vip::EXACT).bytes();
        frame[20] = protocol;
        expect_pass(&mut fixture, &frame);
    }
    // ARP, LLDP, MPLS, PPPoE, an IEEE 802.3 length, and the EtherType of the other IP.
    for ethertype in [0x0806_u16, 0x88cc, 0x8847, 0x8864, 0x0100, 0x86dd] {
        let mut frame = tcp(true, vip::EXACT).bytes();
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        expect_pass(&mut fixture, &frame);
    }
    let three_tags = TestPacket {
        tags: vec![(0x88a8, 1), (0x8100, 2), (0x8100, 3)],
        ..tcp(true, vip::EXACT)
    };
    expect_pass(&mut fixture, &three_tags.bytes());
}

#[test]
fn chains_of_extension_headers_are_followed_up_to_eight() {
    let mut fixture = Fixture::new();
    let chain = |len: usize| TestPacket {
        extensions: vec![(60, padding_options(8)); len],
        ..tcp(false, vip::EXACT)
    };
    assert_eq!(fixture.run(&chain(8).bytes()).action, STEERED);
    expect_pass(&mut fixture, &chain(9).bytes());
    // With a segment left the packet has another destination.
    let routed = TestPacket {
        extensions: vec![(43, vec![0, 0, 1, 0, 0, 0, 0])],
        ..tcp(false, vip::EXACT)
    };
    expect_pass(&mut fixture, &routed.bytes());
    // The length of an authentication header counts differently: here 24 bytes.
    let mut content = vec![4];
    content.resize(23, 0);
    let authenticated = TestPacket {
        extensions: vec![(51, content)],
        ..tcp(false, vip::EXACT)
    };
    assert_eq!(fixture.run(&authenticated.bytes()).action, STEERED);
}

#[test]
fn large_frames_are_steered_whole() {
    let mut fixture = Fixture::new();
    let packet = TestPacket {
        payload: (0..3400_u32).map(|i| i as u8).collect(),
        transport: Transport::Udp { checksum: true },
        ..TestPacket::tcp(client(true), (v4(vip::EXACT), PORT), SYN)
    };
    let frame = packet.bytes();
    let ran = fixture.run(&frame);
    assert_eq!(ran.action, STEERED);
    assert_eq!(
        ran.bytes[54..],
        frame[34..],
        "all behind the inner IP header"
    );
}
