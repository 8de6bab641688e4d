//! The nat table.

use super::{Address, Macs};

/// What a client's packet becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NatForward {
    /// The node's address that the backend sees.
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
    /// [`nat_state`].
    pub state: u8,
    #[doc(hidden)]
    pub _pad: u8,
    /// The backend's address.
    pub backend: Address,
    /// By which way the client's packets come, and answers go back.
    pub back: Back,
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
    /// Length of `tags` in bytes: 0, 4 or 8.
    pub tags_len: u32,
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
    /// [`nat_state`].
    pub state: u8,
    #[doc(hidden)]
    pub _pad: [u8; 5],
    /// By which way answers go to the client.
    pub back: Back,
}

/// What a flow with rewritten addresses has seen, as bits of [`NatForward::state`] and
/// [`NatReverse::state`].
pub mod nat_state {
    /// The backend has answered.
    pub const ANSWERED: u8 = 1;
    /// The client is done: its FIN went by.
    pub const CLIENT_DONE: u8 = 2;
    /// The backend is done.
    pub const BACKEND_DONE: u8 = 4;
    /// Reset by either end.
    pub const RESET: u8 = 8;
    /// The packet that opened it is still on its way through the data path. Only in the client's entry.
    pub const FRESH: u8 = 16;

    /// Whether both ends are done, or one has reset the flow: nothing but retransmissions will come.
    #[inline(always)]
    pub const fn is_over(state: u8) -> bool {
        const BOTH: u8 = CLIENT_DONE | BACKEND_DONE;
        state & RESET != 0 || state & BOTH == BOTH
    }
}
