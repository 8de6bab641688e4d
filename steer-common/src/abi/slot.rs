//! Slots.

/// One entry of a maglev table: one 64-bit word, read and written atomically.
///
/// `track` and `seen` are bytes of their own, so that a byte store of the kernel and a
/// compare-and-swap of the daemon never lose each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Slot {
    /// Member that open flows belong to, if they are not in the flow table.
    pub owner: u16,
    /// Member that new flows go to.
    pub first: u16,
    /// Member that new flows go to when `first` is hot or down.
    pub second: u16,
    /// A [`Track`].
    pub track: u8,
    /// 1 if an open flow used `owner` since the daemon last cleared it. Written only while `owner`
    /// is not `first`.
    pub seen: u8,
}

/// Whether the flow table holds flows of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Track {
    /// It holds none.
    #[default]
    None = 0,
    /// It held some when the daemon began to look for them. The daemon turns it into `None` if it
    /// found none and the kernel has not made it `Some` meanwhile.
    Sweeping = 1,
    /// It holds some. The kernel writes this after each insertion.
    Some = 2,
}

impl Slot {
    /// A slot that is at rest: owner is first.
    pub const fn settled(first: u16, second: u16) -> Self {
        Self {
            owner: first,
            first,
            second,
            track: 0,
            seen: 0,
        }
    }

    /// The word in memory order.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        let [a, b] = self.owner.to_ne_bytes();
        let [c, d] = self.first.to_ne_bytes();
        let [e, f] = self.second.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, self.track, self.seen])
    }

    /// From the word in memory order.
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
