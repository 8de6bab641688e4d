//! Acceptable TCP segments: those that fit the sequence numbers shown by both ends (RFC 9293
//! section 3.10.7, RFC 5961).
//!
//! A segment whose numbers are near those of its sender's last one proves that the sender knows the
//! connection: by chance one in 2^30 does. One that is further away (after losses, or reordered) is
//! compared with what the other end has acknowledged and sent. A segment that fits neither is
//! forwarded, for the receiver to judge, and changes nothing.

use super::super::connection::QuicClassifier;
use crate::{
    abi::{NatForward, Sequence, nat_state},
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
mod tests;
