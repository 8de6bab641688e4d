//! Return paths to clients in mode `nat`: what changes them, and the size of packets on them.

use std::collections::BTreeMap;

use steer_common::{
    Action,
    abi::{ClientNextHop, Interface, Mac, Macs, RouterKey, mac_word},
    verdict::DropReason,
};
use steer_core::dataplane::SteeringTables as _;
use steer_tests::packet::{ACK, CLIENT_MAC, NODE_MAC, SYN, TestPacket};

use crate::{
    fixture::{Fixture, hex, vip},
    icmp::too_big,
    lifetime::ONLY_PORT,
    nat::{answer, forward, tcp, udp, with_numbers},
    segments::opened,
};

const MEMBER: u16 = 5;
const SENT: Action = Action::Transmit(1);
const OTHER: Mac = [2, 0xe, 0, 0, 0, 1];
const THIRD: Mac = [2, 0xe, 0, 0, 0, 2];

/// Returns the destination of a backend's answer.
fn answers_go_to(fixture: &mut Fixture) -> Mac {
    let ran = fixture.run(&answer(&tcp(true, SYN), MEMBER, ONLY_PORT, ACK).bytes());
    assert_eq!(ran.action, SENT);
    assert_eq!(ran.bytes[6..12], NODE_MAC);
    ran.bytes[..6].try_into().unwrap()
}

fn from(mac: Mac, packet: TestPacket) -> Vec<u8> {
    TestPacket {
        macs: [NODE_MAC, mac],
        ..packet
    }
    .bytes()
}

/// Sets the known routers: the MAC address of each, and of its current location.
fn set_routers(fixture: &mut Fixture, family: u8, routers: &[(Mac, Mac)]) {
    let ways: BTreeMap<RouterKey, ClientNextHop> = routers
        .iter()
        .map(|(mac, now)| {
            let way = ClientNextHop {
                macs: Macs::new(*now, NODE_MAC),
                interface: 1,
                ..ClientNextHop::default()
            };
            (RouterKey::new(1, 0, family, mac_word(*mac)), way)
        })
        .collect();
    fixture.xdp.maps().set_routers(&ways).unwrap();
    assert_eq!(fixture.xdp.maps().routers(), ways);
    fixture.copy();
}

#[test]
fn only_an_acceptable_segment_moves_answers_to_another_host() {
    let mut fixture = opened();
    assert_eq!(answers_go_to(&mut fixture), CLIENT_MAC);
    for sequence in [0, 0x9999_9999, u32::MAX] {
        let forged = with_numbers(tcp(true, ACK), sequence, sequence ^ 0x5555);
        assert_eq!(fixture.run(&from(OTHER, forged)).action, SENT);
        assert_eq!(answers_go_to(&mut fixture), CLIENT_MAC, "{sequence:#x}");
    }
    assert_eq!(fixture.run(&from(OTHER, tcp(true, ACK))).action, SENT);
    assert_eq!(answers_go_to(&mut fixture), OTHER);
    assert_eq!(fixture.run(&from(CLIENT_MAC, tcp(true, ACK))).action, SENT);
    assert_eq!(answers_go_to(&mut fixture), CLIENT_MAC);
}

#[test]
fn a_known_router_may_move_answers_to_itself() {
    let mut fixture = opened();
    set_routers(&mut fixture, 4, &[(OTHER, OTHER)]);
    let unknown = with_numbers(tcp(true, ACK), 7, 8);
    fixture.run(&from(THIRD, unknown.clone()));
    assert_eq!(answers_go_to(&mut fixture), CLIENT_MAC);
    fixture.run(&from(OTHER, unknown));
    assert_eq!(answers_go_to(&mut fixture), OTHER);
}

#[test]
fn answers_follow_a_router_that_is_elsewhere_and_never_back_by_its_last_packets() {
    let mut fixture = opened();
    set_routers(&mut fixture, 4, &[(CLIENT_MAC, CLIENT_MAC)]);
    assert_eq!(answers_go_to(&mut fixture), CLIENT_MAC);
    set_routers(&mut fixture, 4, &[(CLIENT_MAC, OTHER), (OTHER, OTHER)]);
    assert_eq!(answers_go_to(&mut fixture), OTHER);
    // In flight when the other one took over.
    assert_eq!(fixture.run(&from(CLIENT_MAC, tcp(true, ACK))).action, SENT);
    assert_eq!(answers_go_to(&mut fixture), OTHER);
    set_routers(
        &mut fixture,
        4,
        &[(CLIENT_MAC, THIRD), (OTHER, THIRD), (THIRD, THIRD)],
    );
    assert_eq!(answers_go_to(&mut fixture), THIRD);
    // And back.
    set_routers(
        &mut fixture,
        4,
        &[(CLIENT_MAC, CLIENT_MAC), (THIRD, CLIENT_MAC)],
    );
    assert_eq!(answers_go_to(&mut fixture), CLIENT_MAC);
}

#[test]
fn a_router_of_the_other_family_moves_nothing() {
    let mut fixture = opened();
    set_routers(&mut fixture, 6, &[(CLIENT_MAC, OTHER), (OTHER, OTHER)]);
    assert_eq!(answers_go_to(&mut fixture), CLIENT_MAC);
}

#[test]
fn a_backend_learns_how_long_an_answer_a_client_s_link_takes() {
    for (is_v4, member) in [(true, 5), (false, 7)] {
        let mut fixture = Fixture::new();
        let request = udp(is_v4);
        let port = forward(&mut fixture, &request, member);
        let known = Interface {
            index: 1,
            group: 1,
            mtu: 1300,
            ..Interface::default()
        };
        fixture.xdp.maps().set_interfaces(&[known]);
        fixture.copy();
        let headers = if is_v4 { 28 } else { 48 };
        let mut reply = answer(&request, member, port, 0);
        reply.payload = vec![9; 1300 - headers];
        let ran = fixture.run(&reply.bytes());
        assert_eq!((ran.action, &ran.bytes[..6]), (SENT, &CLIENT_MAC[..]));
        reply.payload.push(9);
        let before = fixture.answered(DropReason::TooBig);
        let ran = fixture.run(&reply.bytes());
        assert_eq!(ran.action, SENT);
        assert_eq!(hex(&ran.bytes), hex(&too_big(&reply, 1300)), "{}", vip::NAT);
        assert_eq!(fixture.answered(DropReason::TooBig), before + 1);
    }
}
