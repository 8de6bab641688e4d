//! Acceptable TCP segments: those that fit the sequence numbers shown by both ends (RFC 9293
//! section 3.10.7, RFC 5961).
//!
//! A segment whose numbers are near those of its sender's last one proves that the sender knows the
//! connection: by chance one in 2^30 does. One that is further away (after losses, or reordered) is
//! compared with what the other end has acknowledged and sent. A segment that fits neither is
//! forwarded, for the receiver to judge, and changes nothing.

use crate::{
    abi::{NatForward, Sequence, nat_state},
    quic::QuicClassifier,
    wire::{ACK, FIN, Packet, RST, SYN},
};

/// Maximum distance of a segment's numbers from those of its sender's last one. Linux's connection
/// tracking allows as much to acknowledgments (`MAXACKWINDOW`).
const MAX_NEAR_BYTES: u32 = 1 << 16;
/// Maximum distance for segments compared with what the other end has shown: Linux's largest
/// default window is 32 MiB.
const MAX_WINDOW_BYTES: u32 = 1 << 25;

/// Numbers of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    sequence: u32,
    /// Number after its last byte.
    end: u32,
    acknowledgment: u32,
    flags: u8,
}

/// Returns whether two numbers have at most this distance.
#[inline(always)]
const fn is_within(number: u32, other: u32, distance: u32) -> bool {
    number.wrapping_sub(other).wrapping_add(distance) <= 2 * distance
}

/// Returns whether a number is after another one, in the sense of RFC 9293 section 3.4.
#[inline(always)]
const fn is_after(number: u32, other: u32) -> bool {
    (number.wrapping_sub(other) as i32) > 0
}

impl Segment {
    #[inline(always)]
    pub(super) const fn new(packet: &Packet, [sequence, acknowledgment]: [u32; 2]) -> Self {
        let flags = packet.tcp_flags;
        let controls = (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
        Self {
            sequence,
            end: sequence
                .wrapping_add(packet.payload())
                .wrapping_add(controls),
            acknowledgment,
            flags,
        }
    }

    /// Parses the segment of a packet, on demand.
    #[inline(always)]
    pub(super) fn of_packet(packet: &Packet, classifier: &impl QuicClassifier) -> Option<Self> {
        Some(Self::new(packet, classifier.tcp_numbers(packet)?))
    }

    /// Returns its sequence number.
    #[inline(always)]
    pub(super) const fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Returns its acknowledgment number.
    #[inline(always)]
    pub(super) const fn acknowledgment(&self) -> u32 {
        self.acknowledgment
    }

    /// Returns the number after its last byte.
    #[inline(always)]
    pub(super) const fn end(&self) -> u32 {
        self.end
    }

    #[inline(always)]
    const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Returns whether the sender's last segment proves this one. If nothing is known of the
    /// sender, as for flows created by another version, its first segment is accepted; `answered`
    /// tells that the connection is established.
    #[inline(always)]
    pub(super) const fn is_near(&self, own: &Sequence, answered: bool) -> bool {
        let learns = own.acknowledged == 0;
        if !answered || !own.is_known() {
            return answered && learns;
        }
        is_within(self.end, own.next, MAX_NEAR_BYTES)
            && self.has(ACK)
            && (learns || is_within(self.acknowledgment, own.acknowledged, MAX_NEAR_BYTES))
    }

    /// Returns whether a segment without SYN, FIN or RST fits what the other end has shown.
    #[inline(always)]
    pub(super) const fn fits(&self, own: &Sequence, peer: &Sequence) -> bool {
        own.is_known()
            && peer.is_known()
            && self.has(ACK)
            && is_within(self.end, peer.acknowledged, MAX_WINDOW_BYTES)
            && peer.next.wrapping_sub(self.acknowledgment) <= MAX_WINDOW_BYTES
    }

    /// Returns whether a FIN is in the window (RFC 9293 section 3.10.7.4), and acknowledges recent
    /// data of the other end.
    #[inline(always)]
    pub(super) const fn ends(&self, own: &Sequence, peer: &Sequence, answered: bool) -> bool {
        self.is_near(own, answered)
            || (self.fits(own, peer)
                && peer.next.wrapping_sub(self.acknowledgment) <= MAX_NEAR_BYTES)
    }

    /// Returns whether a RST has exactly the number that its receiver expects next, as far as known
    /// here (RFC 5961 section 3.2): the one that it has acknowledged, or the one after everything
    /// that the sender has sent.
    #[inline(always)]
    pub(super) const fn resets(&self, own: &Sequence, peer: &Sequence) -> bool {
        (own.is_known() && self.sequence == own.next)
            || (peer.acknowledged != 0 && self.sequence == peer.acknowledged)
    }

    /// Returns whether a RST refuses a client's SYN (RFC 9293 section 3.10.7.3).
    #[inline(always)]
    pub(super) const fn refuses(&self, client: &Sequence) -> bool {
        self.has(RST | ACK) && self.acknowledges(client.initial, client.next)
    }

    /// Returns whether a SYN-ACK answers a client's SYN.
    #[inline(always)]
    pub(super) const fn accepts(&self, client: &Sequence) -> bool {
        self.has(SYN | ACK) && self.acknowledges(client.initial, client.next)
    }

    /// Returns whether a SYN-ACK answers another SYN than the flow's first one.
    #[inline(always)]
    pub(super) const fn accepts_other(&self, client: &Sequence) -> bool {
        let behind = client.offered.wrapping_add(1);
        client.offered != 0 && self.has(SYN | ACK) && self.acknowledgment == behind
    }

    /// Returns whether the SYN is acknowledged. A receiver may leave the data of a SYN
    /// unacknowledged (RFC 7413).
    #[inline(always)]
    const fn acknowledges(&self, initial: u32, next: u32) -> bool {
        self.acknowledgment == next || self.acknowledgment == initial.wrapping_add(1)
    }
}

/// Returns whether a client's packet has numbers that only an observer of its connection knows.
#[inline(always)]
pub(crate) fn proves_sender(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    entry: &NatForward,
) -> bool {
    let answered = entry.peer_state & nat_state::ANSWERED != 0;
    let is_known = answered && entry.sequence.acknowledged != 0;
    !packet.is_control()
        && is_known
        && Segment::of_packet(packet, classifier)
            .is_some_and(|s| s.is_near(&entry.sequence, answered))
}

impl Sequence {
    #[inline(always)]
    const fn is_known(&self) -> bool {
        self.initial | self.next != 0
    }

    /// Records the numbers of an acceptable segment. Unchanged ones are not written.
    #[inline(always)]
    pub(super) const fn record(&mut self, segment: &Segment) {
        let first = !self.is_known();
        if first || is_after(segment.end, self.next) {
            self.next = segment.end;
        }
        if segment.has(ACK)
            && (first
                || is_after(segment.acknowledgment, self.acknowledged)
                || self.acknowledged == 0)
        {
            self.acknowledged = segment.acknowledgment;
        }
    }

    /// Creates the numbers of the sender of a SYN, or a SYN-ACK.
    #[inline(always)]
    pub(super) const fn of_syn(segment: &Segment) -> Self {
        Self {
            initial: segment.sequence,
            next: segment.end,
            acknowledged: if segment.has(ACK) {
                segment.acknowledgment
            } else {
                0
            },
            offered: 0,
        }
    }

    /// Returns whether the sender has sent any data.
    #[inline(always)]
    pub(super) const fn has_data(&self) -> bool {
        self.next != self.initial.wrapping_add(1)
    }
}

#[cfg(test)]
mod tests {
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
}
