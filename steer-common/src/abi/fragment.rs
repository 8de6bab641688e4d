//! Fragment tracking.

use super::Address;

/// Common fields of a packet's fragments (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification.
    pub id: u32,
    /// IP protocol number for IPv4; 0 for IPv6, where it is not part of the key.
    pub protocol: u8,
    /// Version of IP: 4 or 6.
    pub family: u8,
    #[doc(hidden)]
    pub _pad: u16,
}

/// Decision for the first fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentEntry {
    /// Time of the first fragment, in ticks of the coarse clock.
    pub seen_ticks: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Member of the packet, if its addresses were not rewritten.
    pub member: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`FragmentFate`].
    pub fate: u8,
}

/// Kind of the decision for a first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FragmentFate {
    /// Passed to the kernel: not for a service.
    Passed = 1,
    /// Sent to a member with unchanged addresses.
    Delivered = 2,
    /// Sent to a member with rewritten addresses.
    Forwarded = 3,
    /// Sent from a member with rewritten addresses.
    Returned = 4,
}
