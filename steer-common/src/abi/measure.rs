//! Measurements from packets of mode `nat`: latencies, and signs of trouble.

/// Measures, in the order of the histograms in [`LatencyBuckets`]. Times are taken at the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Measure {
    /// Time from a connection's SYN to the SYN-ACK.
    Connect = 0,
    /// Time from the first byte of a request to the first byte of the answer.
    FirstByte = 1,
    /// Time from the first byte of a request to the first byte of the answer's second burst.
    SecondBurst = 2,
    /// Time from the end of the second or a later burst to the start of the next one.
    Gap = 3,
}

impl Measure {
    /// All measures, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Connect, Self::FirstByte, Self::SecondBurst, Self::Gap];

    /// Returns the name in tables and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::FirstByte => "first-byte",
            Self::SecondBurst => "second-burst",
            Self::Gap => "gap",
        }
    }
}

/// Number of buckets of a histogram. They are log-linear: eight per power of two, so that the
/// bounds of a bucket differ by at most an eighth from 8 µs on; below they are 1 µs apart. The last
/// one holds everything longer.
pub const BUCKETS: u32 = 208;
/// Shift from nanoseconds to units of 2^10 ns, which is a microsecond within 3 %.
const UNIT_SHIFT: u32 = 10;
/// Longest time with a bucket of its own, in units.
const LONGEST: u64 = (1 << 28) - 1;

/// 1 if a number below 2^31 is at least `bound`, else 0: the sign of a difference.
#[inline(always)]
const fn is_at_least(number: u32, bound: u32) -> u32 {
    (number.wrapping_sub(bound) >> 31) ^ 1
}

/// Returns the bucket of a time in nanoseconds.
#[inline(always)]
pub const fn bucket(ns: u64) -> u32 {
    let units = ns >> UNIT_SHIFT;
    let mut mantissa = if units > LONGEST {
        LONGEST as u32
    } else {
        units as u32
    };
    // The kernel has no instruction that counts zeros.
    // Steps by a sign instead of branches, each of which would double what the verifier follows.
    let mut shift = 0;
    let mut step = 16;
    while step > 0 {
        let by = is_at_least(mantissa >> step, 8) * step;
        mantissa >>= by;
        shift += by;
        step /= 2;
    }
    shift * 8 + mantissa
}

/// Returns the lower bound of a bucket in nanoseconds; that of the next one is its upper bound.
pub const fn bucket_start(bucket: u32) -> u64 {
    let units = if bucket < 16 {
        bucket as u64
    } else {
        let shift = bucket / 8 - 1;
        ((bucket - shift * 8) as u64) << shift
    };
    units << UNIT_SHIFT
}

/// Histograms of a member on one CPU: samples of each [`Measure`] by bucket, since the member is
/// measured, modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LatencyBuckets(pub [[u32; BUCKETS as usize]; 4]);

impl LatencyBuckets {
    /// Adds the counts of another CPU.
    pub fn add(&mut self, other: &Self) {
        let counts = self.0.iter_mut().flatten();
        for (count, more) in counts.zip(other.0.iter().flatten()) {
            *count = count.wrapping_add(*more);
        }
    }
}

impl Default for LatencyBuckets {
    fn default() -> Self {
        Self([[0; BUCKETS as usize]; 4])
    }
}

/// Signs of trouble with a member, counted since the maps were created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Signals {
    /// Flows that the backend reset after it had answered.
    pub resets: u64,
    /// Flows that the backend reset in answer to their SYN: nobody listens there.
    pub refused: u64,
    /// Flows whose SYN was repeated because no answer arrived in time.
    pub unanswered: u64,
    /// Connections that the backend accepted.
    pub accepted: u64,
    /// Flows that the backend has ended in order, by a FIN, before a byte of an answer: after the client had asked, or
    /// within a second of its SYN.
    pub ended_early: u64,
}

/// A field of [`Signals`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Signal {
    /// [`Signals::resets`].
    Reset = 0,
    /// [`Signals::refused`].
    Refused = 1,
    /// [`Signals::unanswered`].
    Unanswered = 2,
    /// [`Signals::accepted`].
    Accepted = 3,
    /// [`Signals::ended_early`].
    EndedEarly = 4,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_an_eighth_wide_at_most() {
        for number in 8..BUCKETS - 1 {
            let (start, end) = (bucket_start(number), bucket_start(number + 1));
            assert!((end - start) * 8 <= start, "bucket {number}");
        }
    }

    #[test]
    fn a_time_is_in_the_bucket_around_it() {
        for number in 0..BUCKETS {
            let start = bucket_start(number);
            assert_eq!(bucket(start), number);
            if number > 0 {
                assert_eq!(bucket(start - 1), number - 1);
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket(0), 0);
        // Even a duration of minutes has a bucket of its own.
        assert!(bucket(240_000_000_000) < BUCKETS - 1);
    }
}
