//! What the benchmark and its wrapper program share.

/// Bytes of the template, in words: the headers of IPv4 or IPv6 with TCP, all of which a program may
/// rewrite, and enough content to be an answer.
pub const WORDS: usize = 11;

/// Packets between two looks of the generator at the clock: few enough that some of these windows are
/// not interrupted on a busy machine.
pub const WINDOW: u64 = 4096;

/// A series of runs.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Run {
    /// The first bytes of each packet.
    pub template: [u64; WORDS],
    /// Runs so far.
    pub runs: u64,
    /// Runs that did to the packet what was expected.
    pub good: u64,
    /// When the generator looked at the clock last, in nanoseconds of the monotonic clock.
    pub looked: u64,
    /// The shortest time of a [`WINDOW`] in nanoseconds; 0 before the first has passed.
    pub window: u64,
    /// Length of the packet in bytes.
    pub len: u32,
    /// Number of flows minus one; the number is a power of two.
    pub flow_mask: u32,
    /// The flow before the first, of those that come in turns.
    pub first: u32,
    #[doc(hidden)]
    pub _pad: u32,
    /// By how many bytes the program lengthens a packet.
    pub growth: u32,
    /// Offset in the packet of the word that shows whether the program changed it.
    pub check_at: u32,
    /// That word in the template.
    pub check: u32,
    /// 1 if the program changes it.
    pub change: u32,
}

// SAFETY: `repr(C)`, `Copy`, and made of integers only, without implicit padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Run {}
