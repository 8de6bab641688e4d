//! Life of nat flows from start to end, and of their ports.

use std::net::{IpAddr, Ipv4Addr};

use steer_common::{
    Action,
    abi::{FlowKey, MemberState, NatForward, NatReverse, Slot, nat_state},
    verdict::DropReason,
};
use steer_core::dataplane::FlowTables as _;
use steer_dataplane::now_ticks;
use steer_tests::packet::{ACK, FIN, NODE_MAC, RST, SYN, TestPacket, Transport};

use crate::{
    fixture::{Fixture, PORT, backend, vip},
    nat::{answer, back, forward, tcp, udp},
};

const EXHAUSTED: Action = Action::Drop(DropReason::NatPortsExhausted);
pub(crate) const ONLY_PORT: u16 = 30_000;

/// Returns the same packet from the other client.
pub(crate) fn other(packet: TestPacket) -> TestPacket {
    TestPacket {
        source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 8)),
        source_port: 50_000,
        ..packet
    }
}

/// Returns tables in which every new flow to a backend wants the same port.
pub(crate) fn with_one_port() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_port_count = 1);
    fixture
}

/// Returns whether a packet is answered with a reset.
fn is_reset(fixture: &mut Fixture, packet: &TestPacket) -> bool {
    let ran = fixture.run(&packet.bytes());
    ran.action == Action::Transmit(1) && ran.bytes[0] == 2 && ran.bytes[47] & RST != 0
}

/// Changes both entries of the flow of `packet` through `ONLY_PORT` to member 5, as time or the
/// kernel might.
pub(crate) fn age(
    fixture: &mut Fixture,
    packet: &TestPacket,
    change: impl Fn(&mut NatForward, &mut NatReverse),
) {
    let key = FlowKey {
        source: packet.source.into(),
        destination: packet.destination.into(),
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: match packet.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp { .. } => 17,
        },
        family: 4,
        ..FlowKey::default()
    };
    let reverse_key = FlowKey {
        source: backend(5).into(),
        destination: crate::fixture::OUTER_V4.into(),
        source_port: PORT,
        destination_port: ONLY_PORT,
        ..key
    };
    let maps = fixture.xdp.maps();
    let mut forward = maps.nat_forward(&key).unwrap();
    let mut reverse = maps.nat_reverse(&reverse_key).unwrap();
    change(&mut forward, &mut reverse);
    maps.add_nat_flow(&key, &forward, &reverse_key, &reverse)
        .unwrap();
    fixture.host.forward.borrow_mut().insert(key, forward);
    fixture
        .host
        .reverse
        .borrow_mut()
        .insert(reverse_key, reverse);
}

/// Makes a flow assured, so that it keeps its port.
pub(crate) fn assure(fixture: &mut Fixture, packet: &TestPacket) {
    age(fixture, packet, |forward, reverse| {
        forward.state |= nat_state::ASSURED;
        forward.peer_state |= nat_state::ANSWERED;
        reverse.state |= nat_state::ANSWERED;
        reverse.peer_state |= nat_state::ASSURED;
    });
}

#[test]
fn a_port_stands_for_one_flow_at_a_time() {
    let mut fixture = with_one_port();
    forward(&mut fixture, &tcp(true, SYN), 5);
    assure(&mut fixture, &tcp(true, SYN));
    assert_eq!(
        fixture.run(&other(tcp(true, SYN)).bytes()).action,
        EXHAUSTED
    );
    // Another protocol, and another backend, have ports of their own.
    forward(&mut fixture, &other(udp(true)), 5);
    fixture.set_slot(u32::from(vip::NAT), Slot::owned_by(6, 5));
    forward(&mut fixture, &other(tcp(true, SYN)), 6);
    fixture.check_counters();
}

#[test]
fn a_port_is_taken_over_once_its_flow_is_idle_or_closed_for_long() {
    const OPEN: u8 = nat_state::ANSWERED | nat_state::ASSURED;
    for (state, idle, taken) in [
        (OPEN, 59_000, false),
        (OPEN, 61_000, true),
        (OPEN | nat_state::CLIENT_DONE, 59_000, false),
        (OPEN | nat_state::BACKEND_DONE, 59_000, false),
        (OPEN | nat_state::BACKEND_DONE, 61_000, true),
        // There is no other port, so neither waits for its timeout.
        (
            OPEN | nat_state::CLIENT_DONE | nat_state::BACKEND_DONE,
            100,
            true,
        ),
        (OPEN | nat_state::RESET, 100, true),
        // The client has not continued.
        (nat_state::ANSWERED, 100, true),
        (0, 100, true),
    ] {
        let mut fixture = with_one_port();
        forward(&mut fixture, &tcp(true, SYN), 5);
        age(&mut fixture, &tcp(true, SYN), |forward, reverse| {
            (forward.state, reverse.state) = (state, state);
            let last = now_ticks().wrapping_sub(idle);
            (forward.last_ticks, reverse.last_ticks) = (last, last);
        });
        let syn = other(tcp(true, SYN));
        if taken {
            assert_eq!(forward(&mut fixture, &syn, 5), ONLY_PORT);
            back(&mut fixture, &answer(&syn, 5, ONLY_PORT, SYN | ACK), &syn);
        } else {
            assert_eq!(fixture.run(&syn.bytes()).action, EXHAUSTED, "{state:?}");
        }
    }
}

#[test]
fn an_entry_that_another_cpu_wrote_a_moment_later_is_not_an_old_one() {
    let mut fixture = with_one_port();
    forward(&mut fixture, &tcp(true, SYN), 5);
    age(&mut fixture, &tcp(true, SYN), |_, reverse| {
        reverse.last_ticks = now_ticks().wrapping_add(10_000);
    });
    assure(&mut fixture, &tcp(true, SYN));
    assert_eq!(
        fixture.run(&other(tcp(true, SYN)).bytes()).action,
        EXHAUSTED
    );
}

#[test]
fn a_connection_that_is_over_leaves_its_5_tuple_to_the_next() {
    for (flags, from_client, from_backend) in [
        (FIN | ACK, true, true),
        (RST, true, false),
        (RST, false, true),
    ] {
        let mut fixture = Fixture::new();
        let syn = tcp(true, SYN);
        let port = forward(&mut fixture, &syn, 5);
        back(&mut fixture, &answer(&syn, 5, port, SYN | ACK), &syn);
        forward(&mut fixture, &tcp(true, ACK), 5);
        if from_backend {
            back(&mut fixture, &answer(&syn, 5, port, flags), &syn);
        }
        if from_client {
            forward(&mut fixture, &tcp(true, flags), 5);
        }
        // The slot has changed: the old flow would not.
        fixture.set_slot(u32::from(vip::NAT), Slot::owned_by(6, 5));
        let port = forward(&mut fixture, &syn, 6);
        back(&mut fixture, &answer(&syn, 6, port, SYN | ACK), &syn);
        forward(&mut fixture, &tcp(true, ACK), 6);
    }
}

#[test]
fn ends_that_close_at_the_same_time_both_hear_of_it() {
    for client_first in [true, false] {
        let mut fixture = Fixture::new();
        let syn = tcp(true, SYN);
        let port = forward(&mut fixture, &syn, 5);
        let from_backend = |flags| answer(&tcp(true, SYN), 5, port, flags);
        back(&mut fixture, &from_backend(SYN | ACK), &syn);
        forward(&mut fixture, &tcp(true, ACK), 5);
        if client_first {
            forward(&mut fixture, &tcp(true, FIN | ACK), 5);
            back(&mut fixture, &from_backend(FIN | ACK), &syn);
        } else {
            back(&mut fixture, &from_backend(FIN | ACK), &syn);
            forward(&mut fixture, &tcp(true, FIN | ACK), 5);
        }
        // Neither FIN has been acknowledged yet, and both may be repeated.
        for _ in 0..2 {
            for flags in [FIN | ACK, ACK] {
                assert_eq!(forward(&mut fixture, &tcp(true, flags), 5), port);
                back(&mut fixture, &from_backend(flags), &syn);
            }
        }
        // The same ports again, while the backend may still be in TIME_WAIT: a new connection,
        // which goes where new ones go.
        fixture.set_slot(u32::from(vip::NAT), Slot::owned_by(6, 5));
        forward(&mut fixture, &syn, 6);
    }
}

#[test]
fn an_end_that_goes_on_was_not_reset() {
    let mut fixture = Fixture::new();
    let syn = tcp(true, SYN);
    let port = forward(&mut fixture, &syn, 5);
    back(&mut fixture, &answer(&syn, 5, port, SYN | ACK), &syn);
    // A third party has sent the resets, and guessed the ports.
    for (reset, next) in [
        (tcp(true, RST), tcp(true, ACK)),
        (answer(&syn, 5, port, RST), answer(&syn, 5, port, ACK)),
    ] {
        fixture.run(&reset.bytes());
        fixture.run(&next.bytes());
    }
    fixture.set_slot(u32::from(vip::NAT), Slot::owned_by(6, 5));
    assert_eq!(forward(&mut fixture, &syn, 5), port);
}

#[test]
fn a_connection_that_one_end_has_closed_is_not_over() {
    for from_backend in [false, true] {
        let mut fixture = Fixture::new();
        let syn = tcp(true, SYN);
        let port = forward(&mut fixture, &syn, 5);
        back(&mut fixture, &answer(&syn, 5, port, SYN | ACK), &syn);
        if from_backend {
            back(&mut fixture, &answer(&syn, 5, port, FIN | ACK), &syn);
        } else {
            forward(&mut fixture, &tcp(true, FIN | ACK), 5);
        }
        fixture.set_slot(u32::from(vip::NAT), Slot::owned_by(6, 5));
        // The open end may continue for long, and a new SYN is answered.
        assert_eq!(forward(&mut fixture, &syn, 5), port);
        assert_eq!(forward(&mut fixture, &tcp(true, ACK), 5), port);
    }
}

#[test]
fn answers_follow_the_way_that_the_client_takes() {
    let mut fixture = Fixture::new();
    let syn = tcp(true, SYN);
    let port = forward(&mut fixture, &syn, 5);
    back(&mut fixture, &answer(&syn, 5, port, SYN | ACK), &syn);
    // Another router of the same VLAN: the segment proves that its sender sees the connection.
    let moved = TestPacket {
        macs: [NODE_MAC, [2, 0xc, 9, 9, 9, 9]],
        ..tcp(true, ACK)
    };
    forward(&mut fixture, &moved, 5);
    back(&mut fixture, &answer(&syn, 5, port, ACK), &moved);
    // In another VLAN only to a router known there.
    let elsewhere = TestPacket {
        macs: [NODE_MAC, [2, 0xc, 8, 8, 8, 8]],
        tags: vec![(0x8100, 30)],
        ..tcp(true, ACK)
    };
    forward(&mut fixture, &elsewhere, 5);
    back(&mut fixture, &answer(&syn, 5, port, ACK), &moved);
}

#[test]
fn a_syn_that_is_not_answered_in_time_tries_the_other_choice() {
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_retry_ticks = u32::MAX);
    let syn = tcp(true, SYN);
    let port = forward(&mut fixture, &syn, 5);
    assert_eq!(forward(&mut fixture, &syn, 5), port, "too soon");
    fixture.configure(|config| config.nat_retry_ticks = 0);
    let port = forward(&mut fixture, &syn, 6);
    // The answer to the second one opens the flow, which stays from here on.
    back(&mut fixture, &answer(&syn, 6, port, SYN | ACK), &syn);
    assert_eq!(forward(&mut fixture, &syn, 6), port);
    assert_eq!(forward(&mut fixture, &tcp(true, ACK), 6), port);
    fixture.check_counters();
}

#[test]
fn a_syn_taken_to_a_member_of_the_other_mode_is_no_longer_translated() {
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_retry_ticks = 0);
    fixture.set_slot(u32::from(vip::NAT), Slot::owned_by(5, 1));
    forward(&mut fixture, &tcp(true, SYN), 5);
    let IpAddr::V4(address) = backend(1) else {
        panic!("not IPv4");
    };
    for flags in [SYN, ACK, ACK | FIN] {
        let ran = fixture.run(&tcp(true, flags).bytes());
        assert_eq!(ran.action, Action::Transmit(1));
        assert_eq!(ran.bytes[30..34], address.octets());
        assert_eq!(ran.bytes[23], 4, "IP in IP");
    }
}

#[test]
fn members_that_drain_keep_flows_and_those_that_are_down_lose_them() {
    let mut fixture = Fixture::new();
    let port = forward(&mut fixture, &tcp(true, SYN), 5);
    let datagrams = forward(&mut fixture, &udp(true), 5);
    fixture.set_state(5, MemberState::Draining);
    assert_eq!(forward(&mut fixture, &tcp(true, ACK), 5), port);
    assert_eq!(forward(&mut fixture, &udp(true), 5), datagrams);
    forward(&mut fixture, &other(tcp(true, SYN)), 6);
    fixture.set_state(5, MemberState::Down);
    assert!(is_reset(&mut fixture, &tcp(true, ACK)));
    forward(&mut fixture, &udp(true), 6);
    forward(&mut fixture, &tcp(true, SYN), 6);
    fixture.check_counters();
}

#[test]
fn a_flow_that_was_reset_does_not_return_with_its_backend() {
    let mut fixture = with_one_port();
    let (first, second) = (tcp(true, SYN), other(tcp(true, SYN)));
    forward(&mut fixture, &first, 5);
    fixture.set_state(5, MemberState::Down);
    assert!(is_reset(&mut fixture, &tcp(true, ACK)));
    fixture.set_state(5, MemberState::Up);
    // Its port now belongs to another flow, which it must not disturb.
    assert_eq!(forward(&mut fixture, &second, 5), ONLY_PORT);
    assert!(is_reset(&mut fixture, &tcp(true, ACK)));
    back(
        &mut fixture,
        &answer(&second, 5, ONLY_PORT, SYN | ACK),
        &second,
    );
}

#[test]
fn the_end_of_a_flow_frees_no_port_of_another() {
    let mut fixture = with_one_port();
    let (first, second) = (tcp(true, SYN), other(tcp(true, SYN)));
    forward(&mut fixture, &first, 5);
    // A simulated fault: another flow has the same port.
    age(&mut fixture, &first, |forward, reverse| {
        forward.state = nat_state::RESET;
        reverse.state = nat_state::ANSWERED;
        reverse.peer_state = nat_state::ASSURED;
        reverse.client = second.source.into();
        reverse.client_port = second.source_port;
    });
    assert_eq!(fixture.run(&first.bytes()).action, EXHAUSTED);
    back(&mut fixture, &answer(&second, 5, ONLY_PORT, ACK), &second);
}
