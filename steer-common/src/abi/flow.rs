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
    /// Member in the nat table of QUIC, because connections of one 5-tuple may have several;
    /// otherwise 0.
    pub member: u16,
}

/// Low-order bits of jiffies omitted from [`FlowEntry::coarse_tick`]: half a second at 250 Hz.
pub const COARSE_SHIFT: u32 = 7;
/// Maximum error of [`FlowEntry::last_ticks`] in ticks: `COARSE_SHIFT` bits of jiffies, at 100 Hz or
/// more.
pub const COARSE_TICKS: u32 = 1280;

/// Destination of a flow in the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowEntry {
    /// Time of the last packet, in ticks of the coarse clock.
    #[cfg(not(feature = "next-abi"))]
    pub last_ticks: u32,
    /// Slot, an index into the arena.
    pub slot: u32,
    /// Member of the flow.
    pub member: u16,
    /// Jiffies, without the last [`COARSE_SHIFT`] bits, at the time of [`Self::last_ticks`]. While they
    /// are the same it is not written again, to avoid the clock call and a dirty cache line.
    pub coarse_tick: u16,
    /// Connection ids of QUIC that packets which open connections had during this handshake, by a hash of each; 0 is
    /// none. Of TCP the sequence number of the SYN, [`Self::initial`].
    pub ids: [u8; 4],
    /// Name of the field in the other version.
    #[cfg(feature = "next-abi")]
    pub last_ticks: u32,
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
