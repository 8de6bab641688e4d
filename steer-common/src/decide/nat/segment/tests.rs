use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// One end of a connection, with the node's view of it.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Number of the next byte to send.
    next: u32,
    /// Number of the next byte expected.
    expected: u32,
    seen: Sequence,
}

const fn segment(sequence: u32, len: u32, acknowledgment: u32, flags: u8) -> Segment {
    let controls = (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
    Segment {
        sequence,
        end: sequence.wrapping_add(len).wrapping_add(controls),
        acknowledgment,
        flags,
    }
}

/// Creates a connection whose handshake is over.
fn open(initial: [u32; 2]) -> [End; 2] {
    [0, 1].map(|own| {
        let (own, peer) = (initial[own], initial[1 - own]);
        let (next, expected) = (own.wrapping_add(1), peer.wrapping_add(1));
        End {
            next,
            expected,
            seen: Sequence {
                initial: own,
                next,
                acknowledged: expected,
                offered: 0,
            },
        }
    })
}

/// Passes a segment without control flags through the node; returns whether it is acceptable.
fn pass(own: &mut Sequence, peer: &Sequence, segment: &Segment) -> bool {
    let accepted = segment.is_near(own, true) || segment.fits(own, peer);
    if accepted {
        own.record(segment);
    }
    accepted
}

/// Event in a conversation: the sender, the length, and whether the segment is lost before the
/// node or after it, or delivered.
type Step = (usize, u32, u8);

/// Plays a conversation with segments of any size within the window, losses on either side of
/// the node, and retransmissions. Returns false if the node rejected a segment that it saw.
fn play(ends: &mut [End; 2], steps: &[Step]) -> bool {
    for (sender, len, fate) in steps {
        let (sender, receiver) = (*sender, 1 - *sender);
        let sent = segment(ends[sender].next, *len, ends[sender].expected, ACK);
        let peer = ends[receiver].seen;
        // Lost before the node, lost after it and repeated, or delivered.
        let times = match fate % 4 {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..times {
            if !pass(&mut ends[sender].seen, &peer, &sent) {
                return false;
            }
        }
        if times > 0 {
            ends[sender].next = sent.end;
            ends[receiver].expected = sent.end;
            // Each is acknowledged, except for some acknowledgments lost before the node.
            let peer = ends[sender].seen;
            let answer = segment(ends[receiver].next, 0, sent.end, ACK);
            if fate % 3 != 0 && !pass(&mut ends[receiver].seen, &peer, &answer) {
                return false;
            }
        }
    }
    true
}

proptest! {
    #[test]
    fn what_ends_send_each_other_is_acceptable(
        client: u32,
        backend: u32,
        steps in proptest::collection::vec((0_usize..2, 0_u32..1 << 20, any::<u8>()), 0..200),
    ) {
        let mut ends = open([client, backend]);
        prop_assert!(play(&mut ends, &steps));
        // Keep-alives carry the number before the next one, and acknowledgments are repeated.
        for own in [0, 1] {
            let (end, peer) = (ends[own], ends[1 - own].seen);
            for number in [end.next, end.next.wrapping_sub(1)] {
                let probe = segment(number, 0, end.expected, ACK);
                prop_assert!(pass(&mut ends[own].seen, &peer, &probe));
            }
        }
        // Either end may close or reset, with the number that it sends next or that the other
        // end expects.
        for own in [0, 1] {
            let (end, peer) = (ends[own], ends[1 - own]);
            let fin = segment(end.next, 0, end.expected, FIN | ACK);
            prop_assert!(fin.ends(&end.seen, &peer.seen, true));
            for number in [end.seen.next, peer.seen.acknowledged] {
                prop_assert!(segment(number, 0, 0, RST).resets(&end.seen, &peer.seen));
            }
        }
    }

    #[test]
    fn resets_by_other_numbers_than_the_expected_ones_are_none(
        client: u32,
        backend: u32,
        steps in proptest::collection::vec((0_usize..2, 0_u32..1 << 16, any::<u8>()), 0..50),
        guesses in proptest::collection::vec((any::<u32>(), any::<u32>()), 100),
    ) {
        let mut ends = open([client, backend]);
        prop_assert!(play(&mut ends, &steps));
        for own in [0, 1] {
            let (end, peer) = (ends[own].seen, ends[1 - own].seen);
            let expected = [end.next, peer.acknowledged];
            for (number, _) in &guesses {
                let reset = segment(*number, 0, 0, RST);
                prop_assert_eq!(reset.resets(&end, &peer), expected.contains(number));
            }
            // An adjacent number does not match.
            for number in expected {
                for by in [1, u32::MAX] {
                    let number = number.wrapping_add(by);
                    let reset = segment(number, 0, 0, RST);
                    prop_assert_eq!(reset.resets(&end, &peer), expected.contains(&number));
                }
            }
        }
    }
}

#[test]
fn of_guessed_segments_next_to_none_is_acceptable() {
    let [client, backend] = open([0xffff_ff00, 77]).map(|end| end.seen);
    // All combinations of numbers 2^20 apart.
    let guesses: Vec<u32> = (0..1 << 12).map(|n: u32| (n << 20) + 12_345).collect();
    let (mut near, mut fitting, mut ending) = (0, 0, 0);
    for sequence in &guesses {
        for acknowledgment in &guesses {
            let guess = segment(*sequence, 100, *acknowledgment, ACK);
            near += u32::from(guess.is_near(&client, true));
            fitting += u32::from(guess.fits(&client, &backend));
            let fin = segment(*sequence, 0, *acknowledgment, FIN | ACK);
            ending += u32::from(fin.ends(&client, &backend, true));
        }
    }
    assert!(near <= 1, "{near}");
    assert!(ending <= 64, "{ending}");
    // One in eight thousand refreshes the flow, and does no more.
    assert!(fitting <= (1 << 24) / 8000, "{fitting}");
}

#[test]
fn numbers_may_pass_zero_and_segments_may_come_late() {
    let [mut client, backend] = open([u32::MAX - 5, 9]).map(|end| end.seen);
    let data = segment(u32::MAX - 4, 1000, 10, ACK);
    assert!(data.is_near(&client, true));
    client.record(&data);
    assert_eq!(client.next, 995);
    // An older one changes no number.
    assert!(segment(u32::MAX - 4, 10, 10, ACK).is_near(&client, true));
    client.record(&segment(u32::MAX - 4, 10, 10, ACK));
    assert_eq!((client.next, client.acknowledged), (995, 10));
    assert!(
        !segment(u32::MAX - 4, 10, 10, 0).is_near(&client, true),
        "without ACK"
    );
    assert!(segment(995, 0, 10, FIN | ACK).ends(&client, &backend, true));
}

#[test]
fn a_flow_that_another_version_opened_learns_its_numbers() {
    let mut own = Sequence::default();
    let data = segment(5_000, 100, 700, ACK);
    assert!(!data.is_near(&own, false), "nothing was answered");
    assert!(data.is_near(&own, true));
    own.record(&data);
    assert_eq!((own.next, own.acknowledged), (5_100, 700));
    assert!(!segment(1 << 30, 0, 700, ACK).is_near(&own, true));
}

#[test]
fn a_handshake_is_answered_by_its_number_only() {
    let client = Sequence::of_syn(&segment(1000, 10, 0, SYN));
    for (acknowledgment, fits) in [(1001, true), (1011, true), (1002, false), (1000, false)] {
        let accepts = segment(9, 0, acknowledgment, SYN | ACK);
        assert_eq!(accepts.accepts(&client), fits, "{acknowledgment}");
        let refuses = segment(0, 0, acknowledgment, RST | ACK);
        assert_eq!(refuses.refuses(&client), fits, "{acknowledgment}");
    }
    // Before the answer no segment is proven.
    assert!(!segment(1011, 0, 10, ACK).is_near(&client, false));
    let client = Sequence {
        offered: 7000,
        ..client
    };
    assert!(segment(9, 0, 7001, SYN | ACK).accepts_other(&client));
    assert!(!segment(9, 0, 1001, SYN | ACK).accepts_other(&client));
}
