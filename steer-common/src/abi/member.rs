//! Members.

use super::{Address, Macs};

/// A backend as one service sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Member {
    /// The backend's address.
    pub address: Address,
    /// MAC addresses of the next hop and of our interface.
    pub macs: Macs,
    /// Our interface towards the backend.
    #[cfg(not(feature = "next-abi"))]
    pub interface: u32,
    /// A [`MemberState`]. A byte of its own: one store takes a member out of every slot.
    pub state: u8,
    /// [`member_flags`].
    pub flags: u8,
    /// A [`Mode`].
    pub mode: u8,
    /// Version of IP that the backend is reached by: 4 or 6.
    pub family: u8,
    /// The backend's port under `nat`; 0 keeps the port of the service.
    pub port: u16,
    /// The service's number.
    pub service: u16,
    /// The backend's number, the same for all its members.
    pub backend: u16,
    /// The backend's region, below [`REGIONS`](super::REGIONS).
    pub region: u8,
    #[doc(hidden)]
    pub _pad: u8,
    /// Longest IP packet that the way to the backend takes; 0 if that is not known.
    pub mtu: u16,
    /// VLAN that the way to the backend lies in; 0 if frames to it have no tag.
    pub vlan: u16,
    /// With so many open flows under `nat` it counts as hot; 0 is any number.
    pub max_in_flight: u32,
    /// As it is called in the other version.
    #[cfg(feature = "next-abi")]
    pub interface: u32,
    /// Interfaces that the backend's answers under `nat` have to come in by: that of its next hop, or the devices of
    /// a bond. 0 is any.
    pub reply_interfaces: [u32; 2],
    #[doc(hidden)]
    pub _reserved: [u32; if cfg!(feature = "next-abi") { 2 } else { 0 }],
}

/// Bits of [`Member::flags`].
pub mod member_flags {
    /// `macs` and `interface` hold. Cleared before they change; while it is clear the
    /// kernel's own routing is asked for every packet.
    pub const RESOLVED: u8 = 1;
    /// Its load is past the threshold: new flows try the second choice.
    pub const HOT: u8 = 2;
}

/// What the kernel may send a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum MemberState {
    /// There is no such member.
    #[default]
    Absent = 0,
    /// Everything.
    Up = 1,
    /// Open flows only.
    Draining = 2,
    /// Nothing.
    Down = 3,
}

impl MemberState {
    /// From the byte in a map; what is unknown counts as absent.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Up,
            2 => Self::Draining,
            3 => Self::Down,
            _ => Self::Absent,
        }
    }
}

/// How a member is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Addresses and ports are rewritten both ways.
    Nat = 1,
    /// The packet is wrapped in an IP header (RFC 2003, RFC 2473); the backend answers directly.
    Ipip = 2,
    /// The packet is wrapped in IP and UDP headers (Generic UDP Encapsulation, variant 1 of
    /// draft-ietf-intarea-gue-09); the backend answers directly.
    Gue = 3,
    /// Only the MAC addresses change: the backend is on the same link, has the VIP, and answers
    /// directly.
    L2 = 4,
}

impl Member {
    /// Returns whether new flows may go to it.
    #[inline(always)]
    pub const fn takes_new(&self) -> bool {
        self.state == MemberState::Up as u8
    }

    /// Returns whether open flows may go on.
    #[inline(always)]
    pub const fn keeps_open(&self) -> bool {
        self.state == MemberState::Up as u8 || self.state == MemberState::Draining as u8
    }
}
