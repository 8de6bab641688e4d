//! Packets that get no answer: from impossible sources, with wrong checksums, and for other hosts.

use std::net::IpAddr;

use steer_common::{Action, verdict::DropReason};
use steer_core::dataplane::SteeringTables as _;
use steer_tests::packet::{ACK, NODE_MAC, RST, SYN, TestPacket};

use crate::fixture::{Fixture, PORT, client, hex, v4, v6, vip};

const MARTIAN: Action = Action::Drop(DropReason::MartianSource);
const SENT: Action = Action::Transmit(1);

fn from(source: &str, vip: u8, flags: u8) -> TestPacket {
    let source: IpAddr = source.parse().unwrap();
    let to = if source.is_ipv4() { v4(vip) } else { v6(vip) };
    TestPacket::tcp((source, 31_337), (to, PORT), flags)
}

#[test]
fn sources_that_no_network_has_get_neither_backend_nor_answer() {
    let mut fixture = Fixture::new();
    for source in [
        "0.0.0.0",
        "0.255.1.2",
        "127.0.0.1",
        "224.0.0.5",
        "239.1.2.3",
        "240.0.0.9",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "::ffff:192.0.2.1",
    ] {
        for vip in [vip::EXACT, vip::NAT, vip::EMPTY_REJECT] {
            let packet = from(source, vip, SYN);
            assert_eq!(fixture.run(&packet.bytes()).action, MARTIAN, "{source}");
        }
        // Packets to no service are left to the kernel.
        let frame = from(source, vip::UNKNOWN, SYN).bytes();
        let ran = fixture.run(&frame);
        assert_eq!((ran.action, hex(&ran.bytes)), (Action::Pass, hex(&frame)));
    }
    for vip in [v4(vip::EXACT), v6(vip::EXACT)] {
        let land = TestPacket::tcp((vip, PORT), (vip, PORT), SYN);
        assert_eq!(fixture.run(&land.bytes()).action, MARTIAN);
    }
    assert_eq!(
        fixture
            .run(&from("223.255.255.1", vip::EXACT, SYN).bytes())
            .action,
        SENT
    );
}

#[test]
fn a_segment_with_a_wrong_checksum_is_not_answered() {
    let wrong = Action::Drop(DropReason::BadChecksum);
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        let to = if is_v4 {
            v4(vip::EMPTY_REJECT)
        } else {
            v6(vip::EMPTY_REJECT)
        };
        for len in [0, 1, 2, 3, 4, 27, 1000] {
            let packet = TestPacket {
                payload: vec![0xa5; len],
                ..TestPacket::tcp(client(is_v4), (to, PORT), ACK)
            };
            let ran = fixture.run(&packet.bytes());
            assert_eq!(ran.action, SENT, "{len}");
            let flags = if is_v4 { 47 } else { 67 };
            assert_eq!(ran.bytes[flags], RST);
            let mut frame = packet.bytes();
            *frame.last_mut().unwrap() ^= 0x10;
            assert_eq!(fixture.run(&frame).action, wrong, "{len}");
        }
        if is_v4 {
            let mut frame = TestPacket::tcp(client(true), (to, PORT), SYN).bytes();
            frame[24] ^= 1;
            assert_eq!(fixture.run(&frame).action, wrong);
        }
    }
}

#[test]
fn frames_for_others_pass_untouched() {
    let mut fixture = Fixture::new();
    let virtual_router = [0, 0, 0x5e, 0, 1, 7];
    let own = [NODE_MAC, virtual_router];
    fixture.xdp.maps().set_node_macs(Some(&own)).unwrap();
    let snapshot = fixture.xdp.maps().snapshot();
    let host = fixture.host.snapshot_mut();
    (host.config, host.node_macs) = (snapshot.config, snapshot.node_macs);
    let to = |mac: [u8; 6], is_v4: bool| {
        let to = if is_v4 {
            v4(vip::EXACT)
        } else {
            v6(vip::EXACT)
        };
        let packet = TestPacket::tcp(client(is_v4), (to, PORT), SYN);
        TestPacket {
            macs: [mac, packet.macs[1]],
            ..packet
        }
    };
    for is_v4 in [true, false] {
        for mac in own {
            assert_eq!(fixture.run(&to(mac, is_v4).bytes()).action, SENT);
        }
        let [a, b, c, d, e, f] = NODE_MAC;
        for mac in [
            [0xff; 6],
            [1, 0, 0x5e, 0, 0, 1],
            [a, b, c, d, e, f ^ 1],
            [a ^ 2, b, c, d, e, f],
        ] {
            let frame = to(mac, is_v4).bytes();
            let ran = fixture.run(&frame);
            assert_eq!((ran.action, hex(&ran.bytes)), (Action::Pass, hex(&frame)));
        }
    }
    fixture.xdp.maps().set_node_macs(None).unwrap();
    fixture.host.snapshot_mut().config = fixture.xdp.maps().config();
    assert_eq!(fixture.run(&to([0xff; 6], true).bytes()).action, SENT);
}
