//! Data shared by the benchmark and its wrapper program.

/// Length of the template in words: the headers of IPv4 or IPv6 with TCP, all of which a program
/// may rewrite, and enough payload for an answer.
pub const WORDS: usize = 11;

/// Packets between two clock readings of the generator: few enough that some of these windows are
/// not interrupted on a busy machine.
pub const WINDOW: u64 = 4096;

/// A series of runs.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Run {
    /// First bytes of each packet.
    pub template: [u64; WORDS],
    /// Number of runs so far.
    pub runs: u64,
    /// Number of runs with the expected result.
    pub good: u64,
    /// Time of the generator's last clock reading, in nanoseconds of the monotonic clock.
    pub looked: u64,
    /// Shortest duration of a [`WINDOW`] in nanoseconds; 0 before the first one.
    pub window: u64,
    /// Word that each packet locks before the program runs.
    pub fence: u64,
    /// Length of the packet in bytes.
    pub len: u32,
    /// Number of flows minus one; the number is a power of two.
    pub flow_mask: u32,
    /// Flow before the first one of a sequence.
    pub first: u32,
    #[doc(hidden)]
    pub _pad: u32,
    /// Number of bytes by which the program lengthens a packet.
    pub growth: u32,
    /// Offset in the packet of the word that shows whether the program changed it.
    pub check_at: u32,
    /// Value of that word in the template.
    pub check: u32,
    /// 1 if the program changes it.
    pub change: u32,
}

// SAFETY: `repr(C)`, `Copy`, and made of integers only, without implicit padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Run {}
