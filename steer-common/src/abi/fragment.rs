//! Fragments.

use super::Address;

/// What the parts of a packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification.
    pub id: u32,
    /// IP protocol number of IPv4; 0 for IPv6, where it takes no part.
    pub protocol: u8,
    /// Version of IP: 4 or 6.
    pub family: u8,
    #[doc(hidden)]
    pub _pad: u16,
}

/// What became of the first part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentEntry {
    /// When the first part came: milliseconds of the monotonic clock, cut to 32 bits.
    pub at_ms: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// The member that it went to, if its addresses stayed.
    pub member: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`FragmentFate`].
    pub fate: u8,
}

/// Where a first part went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FragmentFate {
    /// To the kernel: it was not for a service.
    Passed = 1,
    /// To a member, with its addresses as they are.
    Delivered = 2,
    /// To a member, with addresses rewritten.
    Forwarded = 3,
    /// From a member, with addresses rewritten.
    Returned = 4,
}
