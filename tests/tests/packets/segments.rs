//! Segments that anyone can send against a connection in mode `nat`: they are forwarded and change
//! nothing.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::{
    Action,
    abi::{NatForward, NatReverse, Sequence, Slot, member_flags, nat_flags, nat_state},
    verdict::DropReason,
};
use steer_core::dataplane::TrafficCounters as _;
use steer_tests::packet::{ACK, ACKNOWLEDGMENT, FIN, RST, SEQUENCE, SYN, TestPacket};

use crate::{
    fixture::{Fixture, PORT, vip},
    lifetime::{ONLY_PORT, age, with_one_port},
    nat::{answer, back, forward, tcp, with_numbers},
};

const MEMBER: u16 = 5;

/// Returns a fixture with an established connection on the only port.
pub(crate) fn opened() -> Fixture {
    let mut fixture = with_one_port();
    let syn = tcp(true, SYN);
    forward(&mut fixture, &syn, MEMBER);
    back(&mut fixture, &from_backend(SYN | ACK), &syn);
    forward(&mut fixture, &tcp(true, ACK), MEMBER);
    back(&mut fixture, &from_backend(ACK), &syn);
    fixture
}

fn from_backend(flags: u8) -> TestPacket {
    answer(&tcp(true, SYN), MEMBER, ONLY_PORT, flags)
}

/// Returns both entries of the connection, without the number that a forged SYN may leave.
fn entries(fixture: &mut Fixture) -> (NatForward, NatReverse) {
    let found = std::cell::Cell::new(None);
    age(fixture, &tcp(true, SYN), |forward, reverse| {
        let sequence = Sequence {
            offered: 0,
            ..forward.sequence
        };
        found.set(Some((
            NatForward {
                sequence,
                ..*forward
            },
            *reverse,
        )));
    });
    found.get().unwrap()
}

/// Clears the times, which a packet of either end may have updated.
fn timeless((forward, reverse): (NatForward, NatReverse)) -> (NatForward, NatReverse) {
    let forward = NatForward {
        last_ticks: 0,
        ..forward
    };
    (
        forward,
        NatReverse {
            last_ticks: 0,
            ..reverse
        },
    )
}

#[test]
fn guesses_of_either_end_change_nothing() {
    let mut random = StdRng::seed_from_u64(13);
    let mut fixture = opened();
    age(&mut fixture, &tcp(true, SYN), |forward, reverse| {
        forward.last_ticks -= 1000;
        reverse.last_ticks -= 1000;
    });
    let before = entries(&mut fixture);
    let attacker = [[2, 0xd, 5, 6, 7, 8], [2, 0xe, 0xe, 0xe, 0xe, 0xe]];
    for flags in [RST, RST | ACK, SYN, FIN, FIN | ACK, ACK, SYN | ACK] {
        for _ in 0..20 {
            let (sequence, acknowledgment) = (random.random(), random.random());
            let mut guess = with_numbers(tcp(true, flags), sequence, acknowledgment);
            guess.macs = attacker;
            forward(&mut fixture, &guess, MEMBER);
            let guess = with_numbers(from_backend(flags), sequence, acknowledgment);
            back(&mut fixture, &guess, &tcp(true, SYN));
            assert_eq!(entries(&mut fixture), before, "{flags:#x} {sequence:#x}");
        }
    }
    assert_eq!(fixture.xdp.maps().signals(MEMBER).resets, 0);
    // The connection continues.
    forward(&mut fixture, &tcp(true, ACK), MEMBER);
    back(&mut fixture, &from_backend(ACK), &tcp(true, SYN));
}

#[test]
fn resets_by_the_expected_number_end_a_connection_and_those_beside_it_do_not() {
    for (from_client, number) in [
        // Before what the end has sent, and what the other one has acknowledged.
        (true, SEQUENCE + 27),
        (true, SEQUENCE),
        (false, ACKNOWLEDGMENT + 9),
        (false, ACKNOWLEDGMENT),
    ] {
        for (by, ends) in [(1, false), (u32::MAX, false), (0, true)] {
            let mut fixture = opened();
            let number = number.wrapping_add(by);
            if from_client {
                let reset = with_numbers(tcp(true, RST), number, 0);
                forward(&mut fixture, &reset, MEMBER);
            } else {
                let reset = with_numbers(from_backend(RST), number, 0);
                back(&mut fixture, &reset, &tcp(true, SYN));
            }
            let (forward, reverse) = entries(&mut fixture);
            let over = nat_state::is_closed(forward.state | reverse.state);
            assert_eq!(over, ends, "{from_client} {number:#x}");
            let counted = fixture.xdp.maps().signals(MEMBER).resets;
            assert_eq!(counted, u64::from(ends && !from_client));
        }
    }
}

#[test]
fn a_segment_with_a_wrong_checksum_ends_and_opens_nothing() {
    let broken = |packet: &TestPacket| {
        let mut frame = packet.bytes();
        let at = packet.transport_at() + 16;
        frame[at] ^= 0x40;
        frame
    };
    let mut fixture = opened();
    let before = timeless(entries(&mut fixture));
    for packet in [
        tcp(true, RST),
        tcp(true, FIN | ACK),
        from_backend(RST),
        from_backend(FIN | ACK),
    ] {
        assert_eq!(fixture.run(&broken(&packet)).action, Action::Transmit(1));
        assert_eq!(timeless(entries(&mut fixture)), before);
    }
    // One that would open a flow, or restart it.
    let dropped = Action::Drop(DropReason::BadChecksum);
    let mut fixture = Fixture::new();
    fixture.configure(|config| config.nat_retry_ticks = 0);
    for is_v4 in [true, false] {
        for len in [0, 1, 2, 3, 27, 63, 64, 65, 700, 1400] {
            let syn = TestPacket {
                payload: (0..len).map(|byte| byte as u8).collect(),
                ..tcp(is_v4, SYN)
            };
            assert_eq!(fixture.run(&broken(&syn)).action, dropped, "{len}");
        }
    }
    assert!(fixture.host.forward.borrow().is_empty());
    assert_eq!(fixture.xdp.maps().nat_entries().unwrap(), [0, 0]);
    forward(&mut fixture, &tcp(true, SYN), MEMBER);
    assert_eq!(fixture.run(&broken(&tcp(true, SYN))).action, dropped);
    assert_eq!(fixture.xdp.maps().signals(MEMBER).unanswered, 0);
    // If checksums are not verified, it is accepted.
    fixture.configure(|config| config.nat_flags &= !nat_flags::VERIFIES_CHECKSUMS);
    let sent = Action::Transmit(1);
    assert_eq!(fixture.run(&broken(&tcp(true, SYN))).action, sent);
    assert_eq!(fixture.xdp.maps().signals(MEMBER).unanswered, 1);
}

#[test]
fn answers_come_in_by_the_way_to_their_member_only() {
    let mut fixture = opened();
    let before = entries(&mut fixture);
    let elsewhere = Action::Drop(DropReason::WrongInterface);
    fixture.change(MEMBER, |member| member.reply_interfaces = [7, 8]);
    for flags in [ACK, RST, FIN | ACK] {
        assert_eq!(fixture.run(&from_backend(flags).bytes()).action, elsewhere);
        assert_eq!(entries(&mut fixture), before);
    }
    // A port of a bond, any interface, and an unresolved next hop.
    let syn = tcp(true, SYN);
    fixture.change(MEMBER, |member| member.reply_interfaces = [7, 1]);
    back(&mut fixture, &from_backend(ACK), &syn);
    fixture.change(MEMBER, |member| member.reply_interfaces = [0, 0]);
    back(&mut fixture, &from_backend(ACK), &syn);
    fixture.change(MEMBER, |member| {
        member.reply_interfaces = [7, 8];
        member.flags &= !member_flags::RESOLVED;
    });
    back(&mut fixture, &from_backend(ACK), &syn);
    // Another VLAN.
    fixture.change(MEMBER, |member| {
        member.reply_interfaces = [1, 1];
        member.flags |= member_flags::RESOLVED;
        member.vlan = 77;
    });
    assert_eq!(fixture.run(&from_backend(ACK).bytes()).action, elsewhere);
    let tagged = |tags: &[(u16, u16)]| TestPacket {
        tags: tags.to_vec(),
        ..from_backend(ACK)
    };
    for (tags, action) in [
        (&[(0x8100, 78)][..], elsewhere),
        (&[(0x8100, 0x6000 | 77)], Action::Transmit(1)),
        (&[(0x8100, 77), (0x8100, 5)], elsewhere),
    ] {
        assert_eq!(fixture.run(&tagged(tags).bytes()).action, action);
    }
    fixture.configure(|config| config.nat_flags &= !nat_flags::CHECKS_VLAN);
    assert_eq!(
        fixture.run(&from_backend(ACK).bytes()).action,
        Action::Transmit(1)
    );
}

#[test]
fn a_syn_on_an_open_connection_begins_another_one_only_if_the_backend_answers_it() {
    let mut fixture = opened();
    // The slot has changed: whatever the SYN is, it goes where the connection is.
    fixture.set_slot(u32::from(vip::NAT), Slot::owned_by(6, 5));
    let before = timeless(entries(&mut fixture));
    let number = 0x7000_0000;
    let syn = with_numbers(tcp(true, SYN), number, 0);
    forward(&mut fixture, &syn, MEMBER);
    assert_eq!(timeless(entries(&mut fixture)), before);
    // An answer to another SYN, and to this one.
    let accepts = |ack| with_numbers(from_backend(SYN | ACK), 5_000, ack);
    back(&mut fixture, &accepts(number + 2), &syn);
    assert_eq!(timeless(entries(&mut fixture)), before);
    back(&mut fixture, &accepts(number + 1), &syn);
    let (client, backend) = entries(&mut fixture);
    assert_eq!((client.state, client.peer_state), (0, nat_state::ANSWERED));
    assert_eq!(
        (backend.state, backend.peer_state),
        (nat_state::ANSWERED, 0)
    );
    assert_eq!(client.sequence.initial, number);
    // Segments of the previous connection do not affect this one; its own do.
    forward(&mut fixture, &tcp(true, FIN | ACK), MEMBER);
    assert_eq!(entries(&mut fixture).0.state, 0);
    let behind = 5_000 + 1 + 9;
    let ack = with_numbers(tcp(true, ACK), number + 1, behind);
    forward(&mut fixture, &ack, MEMBER);
    assert_eq!(entries(&mut fixture).0.state, nat_state::ASSURED);
}

#[test]
fn a_client_resets_what_its_backend_still_has_on_a_port() {
    let mut fixture = with_one_port();
    fixture.configure(|config| config.nat_retry_ticks = 0);
    forward(&mut fixture, &tcp(true, SYN), MEMBER);
    // The backend acknowledges what another connection had sent (RFC 5961 section 4).
    let challenge = with_numbers(from_backend(ACK), 99, 0x4242_4242);
    back(&mut fixture, &challenge, &tcp(true, SYN));
    assert_eq!(
        entries(&mut fixture).1.state,
        0,
        "it has not answered the SYN"
    );
    let reset = with_numbers(tcp(true, RST), 0x4242_4242, 0);
    forward(&mut fixture, &reset, MEMBER);
    assert_eq!(entries(&mut fixture).0.state, nat_state::RESET);
    // The SYN is repeated: the backend has answered, but not this SYN.
    forward(&mut fixture, &tcp(true, SYN), MEMBER);
    let signals = fixture.xdp.maps().signals(MEMBER);
    assert_eq!((signals.unanswered, signals.refused), (0, 0));
}

#[test]
fn segments_behind_a_gap_are_known_by_what_the_other_end_has_shown() {
    let mut fixture = opened();
    // A megabyte was lost before the node, and its end was not.
    let far = SEQUENCE + (1 << 20);
    forward(
        &mut fixture,
        &with_numbers(tcp(true, ACK), far, ACKNOWLEDGMENT),
        MEMBER,
    );
    assert_eq!(entries(&mut fixture).0.sequence.next, far + 27);
    let end = with_numbers(tcp(true, FIN | ACK), far + (1 << 20), ACKNOWLEDGMENT);
    forward(&mut fixture, &end, MEMBER);
    let state = entries(&mut fixture).0.state;
    assert_ne!(state & nat_state::CLIENT_DONE, 0);
    // The return path is not learned from those.
    let mut far = with_numbers(tcp(true, ACK), far + (3 << 20), ACKNOWLEDGMENT);
    far.macs[1] = [2, 9, 9, 9, 9, 9];
    let before = entries(&mut fixture).0.client_hop;
    forward(&mut fixture, &far, MEMBER);
    assert_eq!(entries(&mut fixture).0.client_hop, before);
    assert_eq!(PORT, 80);
}
