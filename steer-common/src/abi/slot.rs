//! Slots of Maglev tables.

/// One entry of a Maglev table: one 64-bit word, read and written atomically.
///
/// `track` and `seen` are bytes of their own, so that a byte store of the kernel and a
/// compare-and-swap of the daemon never lose each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Slot {
    /// Member of open flows without an entry in the flow table.
    pub owner: u16,
    /// Member of new flows.
    pub first: u16,
    /// Member of new flows if `first` is hot or down.
    pub second: u16,
    /// A [`Track`].
    pub track: u8,
    /// 1 if an open flow used `owner` since the daemon last cleared it. Written only while `owner`
    /// is not `first`.
    pub seen: u8,
}

/// Presence of a slot's flows in the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Track {
    /// No flows.
    #[default]
    None = 0,
    /// Some flows, at least when the daemon's garbage collection started. It changes this to `None` if
    /// it found none and the kernel has not set `Some` meanwhile.
    Sweeping = 1,
    /// Some flows. The kernel writes this after each insertion.
    Some = 2,
}

impl Slot {
    /// Creates a stable slot: owner is first.
    pub const fn owned_by(first: u16, second: u16) -> Self {
        Self {
            owner: first,
            first,
            second,
            track: 0,
            seen: 0,
        }
    }

    /// Returns the word in memory order.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        let [a, b] = self.owner.to_ne_bytes();
        let [c, d] = self.first.to_ne_bytes();
        let [e, f] = self.second.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, self.track, self.seen])
    }

    /// Creates a slot from the word in memory order.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        let [a, b, c, d, e, f, track, seen] = bits.to_ne_bytes();
        Self {
            owner: u16::from_ne_bytes([a, b]),
            first: u16::from_ne_bytes([c, d]),
            second: u16::from_ne_bytes([e, f]),
            track,
            seen,
        }
    }
}
