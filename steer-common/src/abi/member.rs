//! Members.

use super::{Address, Macs};

/// A backend as seen by one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Member {
    /// Address of the backend.
    pub address: Address,
    /// MAC addresses of the next hop and of our interface.
    pub macs: Macs,
    /// Index of our interface towards the backend.
    #[cfg(not(feature = "next-abi"))]
    pub interface: u32,
    /// A [`MemberState`]. A byte of its own: one store takes a member out of every slot.
    pub state: u8,
    /// Bits of [`member_flags`].
    pub flags: u8,
    /// A [`Mode`](super::Mode).
    pub mode: u8,
    /// IP version towards the backend: 4 or 6.
    pub family: u8,
    /// Port of the backend under `nat`; 0 keeps the port of the service.
    pub port: u16,
    /// Number of the service.
    pub service: u16,
    /// Number of the backend, the same for all its members.
    pub backend: u16,
    /// Region of the backend, below [`MAX_REGIONS`](super::MAX_REGIONS).
    pub region: u8,
    #[doc(hidden)]
    pub _pad: u8,
    /// Path MTU to the backend in bytes; 0 if unknown.
    pub mtu: u16,
    /// VLAN of the path to the backend; 0 if untagged.
    pub vlan: u16,
    /// Number of open flows under `nat` from which it counts as hot; 0 is unlimited.
    pub max_in_flight: u32,
    /// Name of the field in the other version.
    #[cfg(feature = "next-abi")]
    pub interface: u32,
    /// Interfaces accepted for the backend's answers under `nat`: that of its next hop, or the
    /// ports of a bond. 0 accepts any.
    pub reply_interfaces: [u32; 2],
    #[doc(hidden)]
    pub _reserved: [u32; if cfg!(feature = "next-abi") { 2 } else { 0 }],
}

/// Bits of [`Member::flags`].
pub mod member_flags {
    /// `macs` and `interface` are valid. Cleared before they change; while it is clear, the
    /// kernel's own routing is queried for every packet.
    pub const RESOLVED: u8 = 1;
    /// Its load is above the threshold: new flows try the second choice.
    pub const HOT: u8 = 2;
}

/// State of a member: the flows that it may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum MemberState {
    /// No such member.
    #[default]
    Absent = 0,
    /// All flows.
    Up = 1,
    /// Open flows only.
    Draining = 2,
    /// No flows.
    Down = 3,
}

impl MemberState {
    /// Returns the state from the byte in a map; an unknown value counts as absent.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Up,
            2 => Self::Draining,
            3 => Self::Down,
            _ => Self::Absent,
        }
    }
}

impl Member {
    /// Returns whether new flows may go to it.
    #[inline(always)]
    pub const fn takes_new(&self) -> bool {
        self.state == MemberState::Up as u8
    }

    /// Returns whether open flows may continue.
    #[inline(always)]
    pub const fn keeps_open(&self) -> bool {
        self.state == MemberState::Up as u8 || self.state == MemberState::Draining as u8
    }
}
