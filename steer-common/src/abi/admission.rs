//! Who is let in.

use super::Address;
use crate::verdict::DropReason;

/// What of admission changes while packets come, by the number of a service or class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Admission {
    /// When the next new flow is due, in nanoseconds of the monotonic clock. The kernel writes it.
    pub due: u64,
    /// New flows are shed whose priority is below this. The daemon writes it.
    pub pressure: u32,
    /// How long a flow under `nat` is kept without a packet, in ticks; 0 is as long as the settings say. The
    /// daemon writes it.
    pub nat_idle_ms: u32,
}

/// How many new flows a service or class takes of each source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceLimit {
    /// How many nanoseconds of new flows may come at once.
    pub burst: u64,
    /// The bits of a client's address that make a source.
    pub mask: Address,
    /// Nanoseconds from one new flow to the next in the long run; at least 1.
    pub interval: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

/// A source as one service or class sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceKey {
    /// The beginning of its clients' addresses.
    pub source: Address,
    /// The number of the service or class.
    pub policy: u16,
    #[doc(hidden)]
    pub _pad: [u16; 3],
}

impl SourceLimit {
    /// The source that a client belongs to.
    #[inline(always)]
    pub const fn source(&self, client: Address) -> Address {
        let ([a, b], [c, d]) = (client.words(), self.mask.words());
        Address::from_v6([a & c, b & d])
    }
}

/// What was refused for a service or class, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Refusals([u64; 8]);

impl Refusals {
    /// What is counted, in the order of the counters.
    pub const REASONS: [DropReason; 6] = [
        DropReason::Denied,
        DropReason::Residency,
        DropReason::RateLimited,
        DropReason::SourceLimited,
        DropReason::Shed,
        DropReason::NoBackend,
    ];

    /// Counts one more, if the reason is one of those.
    #[inline(always)]
    pub fn count(&mut self, reason: DropReason) {
        let index = match reason as u8 {
            reason if reason == DropReason::Denied as u8 => 0,
            reason if reason == DropReason::Residency as u8 => 1,
            reason if reason == DropReason::RateLimited as u8 => 2,
            reason if reason == DropReason::SourceLimited as u8 => 3,
            reason if reason == DropReason::Shed as u8 => 4,
            reason if reason == DropReason::NoBackend as u8 => 5,
            _ => return,
        };
        self.0[index] += 1;
    }

    /// Adds what another CPU counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.wrapping_add(more);
        }
    }

    /// Counts by reason.
    pub fn counts(&self) -> impl Iterator<Item = (DropReason, u64)> {
        Self::REASONS.into_iter().zip(self.0)
    }
}
