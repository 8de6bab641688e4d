//! Members with a limit of open connections.

use steer_common::{Action, abi::Slot};
use steer_tests::packet::{ACK, FIN, RST, SYN, TestPacket};

use crate::{
    fixture::{Fixture, PORT, client, v4, vip},
    nat::{answer, back, forward},
};

const SENT: Action = Action::Transmit(1);

fn tcp(port: u16, flags: u8) -> TestPacket {
    TestPacket {
        source_port: port,
        ..TestPacket::tcp(client(true), (v4(vip::NAT), PORT), flags)
    }
}

/// Returns a fixture with members 5 and 6 as choices, of which the first has a limit of two
/// connections.
fn limited() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.set_slot(u32::from(vip::NAT), Slot::owned_by(5, 6));
    fixture.change(5, |member| member.max_in_flight = 2);
    fixture
}

#[test]
fn at_its_limit_a_member_is_hot_in_the_very_next_packet() {
    let mut fixture = limited();
    let first = forward(&mut fixture, &tcp(1, SYN), 5);
    assert_eq!(fixture.in_flight(5), 1);
    // The same connection again, and its later packets, are not counted again.
    assert_eq!(forward(&mut fixture, &tcp(1, SYN), 5), first);
    let accepted = answer(&tcp(1, SYN), 5, first, SYN | ACK);
    back(&mut fixture, &accepted, &tcp(1, SYN));
    forward(&mut fixture, &tcp(2, SYN), 5);
    assert_eq!(fixture.in_flight(5), 2);
    forward(&mut fixture, &tcp(3, SYN), 6);
    forward(&mut fixture, &tcp(1, ACK), 5);
    assert_eq!((fixture.in_flight(5), fixture.in_flight(6)), (2, 0));

    // Both ends are closed: there is room for one more.
    forward(&mut fixture, &tcp(1, FIN | ACK), 5);
    assert_eq!(fixture.in_flight(5), 2);
    let end = answer(&tcp(1, ACK), 5, first, FIN | ACK);
    back(&mut fixture, &end, &tcp(1, ACK));
    assert_eq!(fixture.in_flight(5), 1);
    // Late packets do not end it twice.
    forward(&mut fixture, &tcp(1, FIN | ACK), 5);
    back(&mut fixture, &end, &tcp(1, ACK));
    assert_eq!(fixture.in_flight(5), 1);
    forward(&mut fixture, &tcp(4, SYN), 5);
    forward(&mut fixture, &tcp(5, SYN), 6);
    // A reset ends a connection at once.
    forward(&mut fixture, &tcp(4, RST), 5);
    assert_eq!(fixture.in_flight(5), 1);
    forward(&mut fixture, &tcp(6, SYN), 5);
    assert_eq!(fixture.in_flight(5), 2);
}

/// Sends the SYN of a flow that either member may get, and returns which one did.
fn either(fixture: &mut Fixture, port: u16) -> u16 {
    let before = fixture.in_flight(5);
    let ran = fixture.run(&tcp(port, SYN).bytes());
    assert_eq!(ran.action, SENT);
    if fixture.in_flight(5) > before { 5 } else { 6 }
}

#[test]
fn where_all_are_full_both_serve() {
    let mut fixture = limited();
    fixture.change(6, |member| member.max_in_flight = 1);
    for (port, member) in [(1, 5), (2, 5), (3, 6)] {
        forward(&mut fixture, &tcp(port, SYN), member);
    }
    let members: Vec<u16> = (4..20).map(|port| either(&mut fixture, port)).collect();
    assert!(members.contains(&5) && members.contains(&6), "{members:?}");
    assert_eq!(fixture.in_flight(5) + fixture.in_flight(6), 3 + 16);
    // A flow stays with its member.
    for (port, member) in (4..20).zip(&members) {
        forward(&mut fixture, &tcp(port, SYN), *member);
    }
    // The port of a closed connection is reused: one ends, and one begins.
    forward(&mut fixture, &tcp(1, RST), 5);
    either(&mut fixture, 1);
    assert_eq!(fixture.in_flight(5) + fixture.in_flight(6), 3 + 16);
}
