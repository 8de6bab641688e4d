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
    /// A [`NatState`].
    pub state: u8,
    #[doc(hidden)]
    pub _pad: u8,
    /// The backend's address.
    pub backend: Address,
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
    /// Interface that the client's packets come in by.
    pub interface: u32,
    /// Port of the VIP.
    pub vip_port: u16,
    /// Port of the client.
    pub client_port: u16,
    /// The member.
    pub member: u16,
    /// A [`NatState`].
    pub state: u8,
    #[doc(hidden)]
    pub _pad: u8,
    /// MAC addresses of frames to the client: those of its own, exchanged.
    pub macs: Macs,
    #[doc(hidden)]
    pub _reserved: u64,
}

/// How far a flow with rewritten addresses is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum NatState {
    /// The backend has not answered yet.
    #[default]
    Opening = 0,
    /// Both sides have been heard.
    Open = 1,
    /// A FIN went by.
    Closing = 2,
    /// Reset: the port is free.
    Closed = 3,
}
