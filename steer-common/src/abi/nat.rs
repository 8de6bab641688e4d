//! The nat table.

use super::{Address, FlowKey, Macs};

/// Translation of a client's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NatForward {
    /// Address of the node that the backend sees.
    #[cfg(not(feature = "next-abi"))]
    pub source: Address,
    /// Time of the client's last packet, in ticks of the coarse clock.
    pub last_ticks: u32,
    /// Start of the flow, in the same unit.
    pub opened_ticks: u32,
    /// Port that the backend sees.
    pub source_port: u16,
    /// Port of the backend.
    pub backend_port: u16,
    /// Member of the flow.
    pub member: u16,
    /// State by the client's packets, as bits of [`nat_state`]. Written only by them.
    pub state: u8,
    /// State by the backend's packets. Written only by them.
    pub peer_state: u8,
    /// Address of the backend.
    pub backend: Address,
    /// Return path of answers.
    pub client_hop: ClientNextHop,
    /// Sequence numbers of the client.
    pub sequence: Sequence,
    /// Name of the field in the other version.
    #[cfg(feature = "next-abi")]
    pub source: Address,
}

/// Return path to a client: the path on which its packets arrive ("auto last hop").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClientNextHop {
    /// MAC addresses of frames to the client: those of its own frames, exchanged.
    pub macs: Macs,
    /// VLAN tags of the client's frames, in memory order.
    pub tags: u64,
    /// Interface on which the client's packets arrive.
    pub interface: u32,
    /// Length of `tags` in bytes, 0, 4 or 8. The upper 16 bits are the
    /// [`Config::routers_epoch`](super::Config::routers_epoch) of the last look-up; they share a
    /// word because programs lack stack for two.
    pub tags_len: u32,
}

impl ClientNextHop {
    /// Returns the length of the tags in bytes.
    #[inline(always)]
    pub const fn tag_bytes(&self) -> u32 {
        self.tags_len & 0xc
    }

    /// Returns the epoch of the last look-up of the path.
    #[inline(always)]
    pub const fn epoch(&self) -> u16 {
        (self.tags_len >> 16) as u16
    }

    /// Returns the same path with the epoch of a new look-up.
    #[inline(always)]
    #[must_use]
    pub const fn with_epoch(self, epoch: u16) -> Self {
        Self {
            tags_len: self.tags_len & 0xffff | (epoch as u32) << 16,
            ..self
        }
    }
}

/// Translation of a backend's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NatReverse {
    /// VIP: the source that the client sees.
    pub vip: Address,
    /// Client address.
    pub client: Address,
    /// Time of the backend's last packet, in ticks of the coarse clock.
    pub last_ticks: u32,
    /// Port of the VIP.
    pub vip_port: u16,
    /// Port of the client.
    pub client_port: u16,
    /// Member of the flow.
    pub member: u16,
    /// State by the backend's packets, as bits of [`nat_state`]. Written only by them.
    pub state: u8,
    /// State by the client's packets. Written only by them.
    pub peer_state: u8,
    /// [`FlowKey::member`] of the client's entry.
    pub key_member: u16,
    #[doc(hidden)]
    pub _pad: u16,
    /// Start of the client's request, or of the flow before the first one: nanoseconds of the
    /// monotonic clock.
    pub request_ns: u64,
    /// Time of the last part of an answer, in the same unit; 0 before the first one.
    pub last_answer_ns: u64,
    /// Return path of answers to the client.
    pub client_hop: ClientNextHop,
    /// Sequence numbers of the backend.
    pub sequence: Sequence,
}

/// Sequence numbers of one end of a TCP connection, as far as its segments have shown them (RFC
/// 9293 section 3.4). All are 0 before the first segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sequence {
    /// Initial sequence number.
    pub initial: u32,
    /// Number after the last byte sent: SND.NXT.
    pub next: u32,
    /// Latest number acknowledged: RCV.NXT. Before a backend's first segment, the number after the
    /// client's SYN.
    pub acknowledged: u32,
    /// Initial sequence number of the last SYN that did not belong to the connection. Only the
    /// backend's answer to it starts another one.
    pub offered: u32,
}

impl NatForward {
    /// Returns the key of the backend's packets, given the client's key.
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
    /// Returns the key of the client's packets, given the backend's key.
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

/// A new flow, in the ring of those that may be evicted by newer ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UnassuredFlow {
    /// Key of the client's packets.
    pub key: FlowKey,
    /// Start of the flow: [`NatForward::opened_ticks`].
    pub opened_ticks: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

/// State of a nat flow, as bits set by its packets.
pub mod nat_state {
    /// The backend has answered.
    pub const ANSWERED: u8 = 1;
    /// The client has sent its FIN.
    pub const CLIENT_DONE: u8 = 2;
    /// The backend has sent its FIN.
    pub const BACKEND_DONE: u8 = 4;
    /// The last packet was a reset.
    pub const RESET: u8 = 8;
    /// The packet that opened the flow is still in the data path. Only in the client's entry.
    pub const NEW: u8 = 16;
    /// The client has continued after an answer: the flow is assured, and not evicted.
    pub const ASSURED: u8 = 32;
    /// Toggled by each request of the client, and by the start of each answer: no request is open
    /// while both sides agree.
    pub const REQUEST_PARITY: u8 = 64;
    /// The answer's second burst has arrived. Only in the backend's entry.
    pub const SECOND_BURST_SEEN: u8 = 128;

    /// Returns whether both ends are closed, or one has reset the flow: only retransmissions will
    /// follow.
    #[inline(always)]
    pub const fn is_closed(state: u8) -> bool {
        over(state) != 0
    }

    /// The same as 1 or 0, by shifts: the verifier follows each branch on its own.
    #[inline(always)]
    pub const fn over(state: u8) -> u8 {
        let are_done =
            state >> CLIENT_DONE.trailing_zeros() & state >> BACKEND_DONE.trailing_zeros();
        (state >> RESET.trailing_zeros() | are_done) & 1
    }

    /// Returns whether a request of the client is unanswered.
    #[inline(always)]
    pub const fn awaits_answer(state: u8, peer_state: u8) -> bool {
        (state ^ peer_state) & REQUEST_PARITY != 0
    }
}

/// Idle timeouts of nat entries, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NatTimeouts {
    /// Timeout of open TCP flows.
    pub idle_ticks: u32,
    /// Timeout of UDP flows.
    pub udp_idle_ticks: u32,
    /// Timeout of unassured TCP flows.
    pub unassured_ticks: u32,
    /// Timeout of unassured UDP flows.
    pub udp_unassured_ticks: u32,
    /// Timeout of closed flows.
    pub closed_ticks: u32,
}

impl NatTimeouts {
    /// Returns the timeouts with another one for open flows, unless it is 0.
    #[inline(always)]
    #[must_use]
    pub const fn with_idle(self, idle_ms: u32) -> Self {
        if idle_ms == 0 {
            return self;
        }
        Self {
            idle_ticks: idle_ms,
            udp_idle_ticks: idle_ms,
            ..self
        }
    }

    /// Returns whether a flow in this state is gone after an idle time.
    #[inline(always)]
    pub const fn is_gone(&self, is_tcp: bool, state: u8, idle: u32) -> bool {
        let (longest, opening) = if is_tcp {
            (self.idle_ticks, self.unassured_ticks)
        } else {
            (self.udp_idle_ticks, self.udp_unassured_ticks)
        };
        idle > longest
            || (nat_state::is_closed(state) && idle > self.closed_ticks)
            || (state & nat_state::ASSURED == 0 && idle > opening)
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
            assert_eq!(is_closed(state), reset || done, "{state:#x}");
            assert_eq!(over(state), u8::from(is_closed(state)), "{state:#x}");
        }
    }
}
