//! QUIC: all packets of a handshake go to one member and count once, whatever their connection ids.

use steer_common::{
    Action,
    abi::{Address, MemberState, Slot, SourceLimit},
    verdict::DropReason,
};
use steer_dataplane::now_ticks;
use steer_tests::packet::TestPacket;

use crate::{
    fixture::{Fixture, LAYOUTS, V6_SLOTS, v4, v6, vip},
    nat,
    quic::{Kind, expect, id_of, members, nat_members, packet, slot},
};

const SENT: Action = Action::Transmit(1);
const LIMITED: Action = Action::Drop(DropReason::SourceLimited);
/// Ids that do not name a server: the client's, that of a Retry, the server's, and another
/// client's.
const CLIENT: [u8; 13] = *b"\xe1client chose";
const RETRY: [u8; 13] = *b"\xe2of the retry";
const SERVER: [u8; 13] = *b"\xe3server chose";
const ANOTHER: [u8; 13] = *b"\xe4another one.";

fn send(is_v4: bool, vip: u8, kind: Kind, id: &[u8]) -> TestPacket {
    packet(is_v4, vip, kind.datagram(1, id))
}

/// Returns the same packet from another port: another client's.
fn from(port: u16, packet: &TestPacket) -> TestPacket {
    TestPacket {
        source_port: port,
        ..packet.clone()
    }
}

/// Makes a slot's new flows go to `first` while its open ones belong to `owner`, as when a member
/// drains.
fn drain(fixture: &mut Fixture, index: u32, owner: u16, first: u16) {
    fixture.set_state(owner, MemberState::Draining);
    let moving = Slot {
        owner,
        first,
        second: owner,
        track: fixture.slot(index).track,
        ..Slot::default()
    };
    fixture.set_slot(index, moving);
}

#[test]
fn a_later_initial_stays_with_its_member_as_its_slot_drains() {
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        let [first, other] = members(is_v4);
        let send = |kind, id: &[u8]| send(is_v4, vip::QUIC, kind, id);
        expect(&mut fixture, &send(Kind::Initial, &CLIENT), first);
        drain(&mut fixture, slot(is_v4, vip::QUIC), first, other);
        // The client's second flight, preceded by the acknowledgment of the server's Initial.
        expect(&mut fixture, &send(Kind::Handshake, &SERVER), first);
        expect(&mut fixture, &send(Kind::Initial, &SERVER), first);
        expect(&mut fixture, &send(Kind::Handshake, &SERVER), first);
        expect(&mut fixture, &send(Kind::Short, &SERVER), first);
        let new = from(50_001, &send(Kind::Initial, &CLIENT));
        expect(&mut fixture, &new, other);
        // It has an entry, which is looked up for the other packets of the slot.
        expect(&mut fixture, &send(Kind::Initial, &SERVER), first);
        expect(&mut fixture, &send(Kind::Short, &SERVER), first);
        expect(
            &mut fixture,
            &from(50_001, &send(Kind::Short, &SERVER)),
            other,
        );
    }
}

#[test]
fn a_later_initial_stays_with_its_member_under_nat() {
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        let [first, other] = nat_members(is_v4);
        let send = |kind, id: &[u8]| send(is_v4, vip::QUIC_NAT, kind, id);
        let port = nat::forward(&mut fixture, &send(Kind::Initial, &CLIENT), first);
        drain(&mut fixture, slot(is_v4, vip::QUIC_NAT), first, other);
        for kind in [Kind::Initial, Kind::Handshake, Kind::Initial, Kind::Short] {
            assert_eq!(
                nat::forward(&mut fixture, &send(kind, &SERVER), first),
                port
            );
        }
        let new = from(50_001, &send(Kind::Initial, &CLIENT));
        nat::forward(&mut fixture, &new, other);
        fixture.check_counters();
        assert_eq!(fixture.host.counters.borrow()[&first].flows, 1);
    }
}

#[test]
fn a_client_hello_in_several_packets_goes_to_one_member() {
    for is_v4 in [true, false] {
        let mut fixture = Fixture::new();
        let [first, other] = members(is_v4);
        let send = |kind, id: &[u8]| send(is_v4, vip::QUIC, kind, id);
        expect(&mut fixture, &send(Kind::Initial, &CLIENT), first);
        // The table has changed between two packets, without waiting for the old owner.
        fixture.set_slot(slot(is_v4, vip::QUIC), Slot::owned_by(other, first));
        for kind in [Kind::Initial, Kind::ZeroRtt, Kind::Initial] {
            expect(&mut fixture, &send(kind, &CLIENT), first);
        }
        // After a Retry the ClientHello is repeated with another id, and then there is the
        // server's.
        expect(&mut fixture, &send(Kind::Initial, &RETRY), first);
        expect(&mut fixture, &send(Kind::Initial, &SERVER), first);
        expect(&mut fixture, &send(Kind::Initial, &CLIENT), first);
        fixture.check_counters();
        assert_eq!(fixture.host.counters.borrow()[&first].flows, 1);
        // One id more than a handshake has is another connection, whose client reuses the port.
        expect(&mut fixture, &send(Kind::Initial, &ANOTHER), other);
        expect(&mut fixture, &send(Kind::Initial, &SERVER), other);
    }
}

#[test]
fn a_handshake_that_was_long_ago_binds_no_new_one() {
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_timeouts.unassured_ticks = 0);
    let [first, other] = members(true);
    expect(
        &mut fixture,
        &send(true, vip::QUIC, Kind::Initial, &CLIENT),
        first,
    );
    let then = now_ticks();
    while now_ticks().wrapping_sub(then) < 2 {}
    fixture.set_slot(slot(true, vip::QUIC), Slot::owned_by(other, first));
    expect(
        &mut fixture,
        &send(true, vip::QUIC, Kind::Initial, &SERVER),
        other,
    );
}

#[test]
fn a_member_that_is_down_gets_no_more_of_a_handshake() {
    let mut fixture = Fixture::new();
    let [first, other] = members(true);
    expect(
        &mut fixture,
        &send(true, vip::QUIC, Kind::Initial, &CLIENT),
        first,
    );
    fixture.set_state(first, MemberState::Down);
    expect(
        &mut fixture,
        &send(true, vip::QUIC, Kind::Initial, &CLIENT),
        other,
    );
    // It does not return to the member it has lost.
    fixture.set_state(first, MemberState::Up);
    expect(
        &mut fixture,
        &send(true, vip::QUIC, Kind::Initial, &CLIENT),
        other,
    );
}

/// Creates a service with a limit of two flows per source.
fn limited(is_v4: bool, vip: u8) -> Fixture {
    const INTERVAL: u32 = 4_000_000_000;
    let mut fixture = Fixture::new();
    let all = Address::from(std::net::IpAddr::V6(u128::MAX.into()));
    fixture.limits = vec![SourceLimit {
        burst: u64::from(INTERVAL),
        mask: all,
        interval: INTERVAL,
        ..SourceLimit::default()
    }];
    let address = if is_v4 { v4(vip) } else { v6(vip) };
    fixture.change_service(address, |service| service.limit = 1);
    fixture
}

#[test]
fn packets_of_one_handshake_count_once() {
    for is_v4 in [true, false] {
        let mut fixture = limited(is_v4, vip::QUIC);
        let send = |port, kind, id: &[u8]| from(port, &send(is_v4, vip::QUIC, kind, id)).bytes();
        for port in [50_001, 50_002] {
            for id in [CLIENT, CLIENT, RETRY, RETRY, SERVER] {
                for kind in [Kind::Initial, Kind::ZeroRtt] {
                    assert_eq!(fixture.run(&send(port, kind, &id)).action, SENT);
                }
            }
        }
        let third = send(50_003, Kind::Initial, &CLIENT);
        assert_eq!(fixture.run(&third).action, LIMITED);
        // Nor can a known port open one connection after the other.
        let more = send(50_001, Kind::Initial, &ANOTHER);
        assert_eq!(fixture.run(&more).action, LIMITED);
        // Open connections continue.
        assert_eq!(
            fixture.run(&send(50_001, Kind::Handshake, &SERVER)).action,
            SENT
        );
        let id = slot(is_v4, vip::QUIC) as u16;
        assert_eq!(fixture.refused(id, DropReason::SourceLimited), 2);
        fixture.check_counters();
        let [first, _] = members(is_v4);
        assert_eq!(fixture.host.counters.borrow()[&first].flows, 2);
    }
}

#[test]
fn an_id_of_a_server_is_no_way_past_limits() {
    for (is_v4, vip) in [
        (true, vip::QUIC),
        (false, vip::QUIC),
        (true, vip::QUIC_NAT),
        (false, vip::QUIC_NAT),
    ] {
        let mut fixture = limited(is_v4, vip);
        let [_, other] = if vip == vip::QUIC {
            members(is_v4)
        } else {
            nat_members(is_v4)
        };
        let id = id_of(other, LAYOUTS[1]);
        let send = |port, kind, id: &[u8]| from(port, &send(is_v4, vip, kind, id)).bytes();
        // An id observed on the path, from ports without a connection.
        for (port, action) in [(1, SENT), (2, SENT), (3, LIMITED), (4, LIMITED), (1, SENT)] {
            let initial = send(50_000 + port, Kind::Initial, &id);
            assert_eq!(fixture.run(&initial).action, action, "port {port}");
        }
        // Without an Initial no connection is opened, and clients that move continue.
        assert_eq!(fixture.run(&send(50_003, Kind::Short, &id)).action, SENT);
        let number = u16::from(vip) + if is_v4 { 0 } else { V6_SLOTS as u16 };
        assert_eq!(fixture.refused(number, DropReason::SourceLimited), 2);
    }
}

#[test]
fn a_second_flight_that_names_its_server_does_not_count() {
    let mut fixture = limited(true, vip::QUIC);
    let [first, _] = members(true);
    let id = id_of(first, LAYOUTS[1]);
    for port in [50_001, 50_002] {
        for (kind, id) in [
            (Kind::Initial, &CLIENT[..]),
            (Kind::Initial, &id),
            (Kind::Handshake, &id),
            (Kind::Initial, &id),
            (Kind::Short, &id),
        ] {
            let packet = from(port, &send(true, vip::QUIC, kind, id));
            expect(&mut fixture, &packet, first);
        }
    }
    let third = from(50_003, &send(true, vip::QUIC, Kind::Initial, &CLIENT));
    assert_eq!(fixture.run(&third.bytes()).action, LIMITED);
}
