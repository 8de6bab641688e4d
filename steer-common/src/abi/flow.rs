//! The flow table.

use super::Address;

/// A 5-tuple. Ports in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Version of IP: 4 or 6.
    pub family: u8,
    /// In the nat table of QUIC the member, because connections of one 5-tuple may have several;
    /// otherwise 0.
    pub member: u16,
}

/// Bits of jiffies that [`FlowEntry::stamp`] is without: half a second where there are 250 in a second.
pub const STAMP_SHIFT: u32 = 7;
/// By so many ticks [`FlowEntry::last_ms`] may be too early: `STAMP_SHIFT` bits of jiffies, of which there are 100 in a
/// second at least.
pub const STAMP_TICKS: u32 = 1280;

/// Where a remembered flow goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowEntry {
    /// When a packet of it was last seen: milliseconds of the monotonic clock, cut to 32 bits.
    #[cfg(not(feature = "next-abi"))]
    pub last_ms: u32,
    /// Its slot, an index into the arena.
    pub slot: u32,
    /// The member it goes to.
    pub member: u16,
    /// The kernel's jiffies, without their last [`STAMP_SHIFT`] bits, when [`Self::last_ms`] was written. As long as they
    /// are the same it is not written again: to ask for the time costs more, and so does a cache line that is dirty.
    pub stamp: u16,
    /// Connection ids of QUIC that packets which open connections had during this handshake, by a hash of each; 0 is
    /// none. Of TCP the sequence number of the SYN, [`Self::initial`].
    pub ids: [u8; 4],
    /// As it is called in the other version.
    #[cfg(feature = "next-abi")]
    pub last_ms: u32,
}

impl FlowEntry {
    /// Sequence number of the SYN that a TCP flow began with; 0 if it is not known.
    #[inline(always)]
    #[must_use]
    pub const fn initial(&self) -> u32 {
        u32::from_ne_bytes(self.ids)
    }

    /// The same flow, begun by a SYN with this sequence number.
    #[inline(always)]
    #[must_use]
    pub const fn with_initial(self, number: u32) -> Self {
        Self {
            ids: number.to_ne_bytes(),
            ..self
        }
    }
}
