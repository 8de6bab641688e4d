//! The nat table.

use super::{Address, FlowKey, Macs};

/// What a client's packet becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NatForward {
    /// The node's address that the backend sees.
    #[cfg(not(feature = "next-abi"))]
    pub source: Address,
    /// When a packet of the client was last seen: milliseconds of the monotonic clock, 32 bits.
    pub last_ms: u32,
    /// When the flow began, in the same unit.
    pub opened_ms: u32,
    /// The port that the backend sees.
    pub source_port: u16,
    /// The backend's port.
    pub backend_port: u16,
    /// The member it goes to.
    pub member: u16,
    /// What the client's packets have said: [`nat_state`]. Only they write it.
    pub state: u8,
    /// What the backend's packets have said. Only they write it.
    pub told: u8,
    /// The backend's address.
    pub backend: Address,
    /// By which way the client's packets come, and answers go back.
    pub back: Back,
    /// The client's sequence numbers.
    pub sequence: Sequence,
    /// As it is called in the other version.
    #[cfg(feature = "next-abi")]
    pub source: Address,
}

/// The way back to a client: that by which its packets come ("auto last hop").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Back {
    /// MAC addresses of frames to the client: those of its own, exchanged.
    pub macs: Macs,
    /// VLAN tags of the client's frames, as they lie there.
    pub tags: u64,
    /// Interface that the client's packets come in by.
    pub interface: u32,
    /// Length of `tags` in bytes, 0, 4 or 8. The upper 16 bits are the
    /// [`Config::routers_epoch`](super::Config::routers_epoch) when the way was looked up last: one word, because
    /// of two the stack of programs has no room.
    pub tags_len: u32,
}

impl Back {
    /// Length of the tags in bytes.
    #[inline(always)]
    pub const fn tag_bytes(&self) -> u32 {
        self.tags_len & 0xc
    }

    /// Number of the ways to routers when the way was looked up last.
    #[inline(always)]
    pub const fn epoch(&self) -> u16 {
        (self.tags_len >> 16) as u16
    }

    /// The same way, looked up with ways to routers of this number.
    #[inline(always)]
    #[must_use]
    pub const fn looked_up(self, epoch: u16) -> Self {
        Self {
            tags_len: self.tags_len & 0xffff | (epoch as u32) << 16,
            ..self
        }
    }
}

/// What a backend's packet becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NatReverse {
    /// The VIP: the source that the client sees.
    pub vip: Address,
    /// The client.
    pub client: Address,
    /// When a packet of the backend was last seen: milliseconds of the monotonic clock, 32 bits.
    pub last_ms: u32,
    /// Port of the VIP.
    pub vip_port: u16,
    /// Port of the client.
    pub client_port: u16,
    /// The member.
    pub member: u16,
    /// What the backend's packets have said: [`nat_state`]. Only they write it.
    pub state: u8,
    /// What the client's packets have said. Only they write it.
    pub told: u8,
    /// [`FlowKey::member`] of the client's entry.
    pub key_member: u16,
    #[doc(hidden)]
    pub _pad: u16,
    /// When the client's request began, or the flow while it has made none: nanoseconds of the monotonic clock.
    pub asked_ns: u64,
    /// When a part of an answer last went by, in the same unit; 0 before the first one.
    pub heard_ns: u64,
    /// By which way answers go to the client.
    pub back: Back,
    /// The backend's sequence numbers.
    pub sequence: Sequence,
}

/// Sequence numbers of one end of a TCP connection, as far as its segments have shown them (RFC 9293 section 3.4).
/// All are 0 while no segment has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sequence {
    /// Initial sequence number.
    pub initial: u32,
    /// Number behind the last byte that it has sent: SND.NXT.
    pub next: u32,
    /// Latest number that it has acknowledged: RCV.NXT. Before a backend's first segment, the number behind the
    /// client's SYN.
    pub acknowledged: u32,
    /// Initial sequence number of the last SYN that did not belong to the connection. Only the backend's answer
    /// to it begins another one.
    pub offered: u32,
}

impl NatForward {
    /// The key of the backend's packets, of the flow with this key.
    #[inline(always)]
    pub const fn reverse_key(&self, key: &FlowKey) -> FlowKey {
        FlowKey {
            source: self.backend,
            destination: self.source,
            source_port: self.backend_port,
            destination_port: self.source_port,
            protocol: key.protocol,
            family: key.family,
            member: 0,
        }
    }
}

impl NatReverse {
    /// The key of the client's packets, of the flow whose backend's packets have this key.
    #[inline(always)]
    pub const fn forward_key(&self, key: &FlowKey) -> FlowKey {
        FlowKey {
            source: self.client,
            destination: self.vip,
            source_port: self.client_port,
            destination_port: self.vip_port,
            protocol: key.protocol,
            family: key.family,
            member: self.key_member,
        }
    }
}

/// A flow that began, in the ring of those that may have to make room for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Opening {
    /// The key of the client's packets.
    pub key: FlowKey,
    /// When it began: [`NatForward::opened_ms`].
    pub opened_ms: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

/// What the packets of a flow with rewritten addresses have said, as bits.
pub mod nat_state {
    /// The backend has answered.
    pub const ANSWERED: u8 = 1;
    /// The client is done: its FIN went by.
    pub const CLIENT_DONE: u8 = 2;
    /// The backend is done.
    pub const BACKEND_DONE: u8 = 4;
    /// The last packet was a reset.
    pub const RESET: u8 = 8;
    /// The packet that opened it is still on its way through the data path. Only in the client's entry.
    pub const FRESH: u8 = 16;
    /// The client has gone on after it was answered: the flow makes room for no other.
    pub const SETTLED: u8 = 32;
    /// Changes with each request of the client's, and with the begin of each answer: where both sides
    /// have it alike, nothing is asked that is not answered.
    pub const TURN: u8 = 64;
    /// The answer's second burst has come. Only in the backend's entry.
    pub const LATER: u8 = 128;

    /// Whether both ends are done, or one has reset the flow: nothing but retransmissions will come.
    #[inline(always)]
    pub const fn is_over(state: u8) -> bool {
        over(state) != 0
    }

    /// The same as 1 or 0, by shifts: the verifier follows each branch on its own.
    #[inline(always)]
    pub const fn over(state: u8) -> u8 {
        let are_done =
            state >> CLIENT_DONE.trailing_zeros() & state >> BACKEND_DONE.trailing_zeros();
        (state >> RESET.trailing_zeros() | are_done) & 1
    }

    /// Whether the client has asked for something that is not answered yet.
    #[inline(always)]
    pub const fn is_waiting(state: u8, told: u8) -> bool {
        (state ^ told) & TURN != 0
    }
}

/// How long nat entries are kept without a packet, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NatTimeouts {
    /// Of open TCP flows.
    pub idle_ms: u32,
    /// Of UDP flows.
    pub udp_idle_ms: u32,
    /// Of TCP flows that are not settled.
    pub opening_ms: u32,
    /// Of UDP flows that are not settled.
    pub udp_opening_ms: u32,
    /// Of flows that are over.
    pub closed_ms: u32,
}

impl NatTimeouts {
    /// The same with another time for open flows, unless it is 0.
    #[inline(always)]
    #[must_use]
    pub const fn with_idle(self, idle_ms: u32) -> Self {
        if idle_ms == 0 {
            return self;
        }
        Self {
            idle_ms,
            udp_idle_ms: idle_ms,
            ..self
        }
    }

    /// Whether a flow whose ends have said all this is gone, after so long without a packet.
    #[inline(always)]
    pub const fn is_gone(&self, is_tcp: bool, state: u8, idle: u32) -> bool {
        let (longest, opening) = if is_tcp {
            (self.idle_ms, self.opening_ms)
        } else {
            (self.udp_idle_ms, self.udp_opening_ms)
        };
        idle > longest
            || (nat_state::is_over(state) && idle > self.closed_ms)
            || (state & nat_state::SETTLED == 0 && idle > opening)
    }
}

#[cfg(test)]
mod tests {
    use super::nat_state::*;

    #[test]
    fn a_flow_is_over_once_it_is_reset_or_both_ends_are_done() {
        for state in 0..=u8::MAX {
            let reset = state & RESET != 0;
            let done = state & CLIENT_DONE != 0 && state & BACKEND_DONE != 0;
            assert_eq!(is_over(state), reset || done, "{state:#x}");
            assert_eq!(over(state), u8::from(is_over(state)), "{state:#x}");
        }
    }
}
