//! Admission control: rate limits, shedding and sources.

use super::{Address, DropReason};

/// Mutable state of admission, by the number of a service or class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Admission {
    /// Time at which the next new flow is due, in nanoseconds of the monotonic clock. Written by
    /// the kernel.
    pub due: u64,
    /// Priority below which new flows are shed. Written by the daemon.
    pub pressure: u32,
    /// Idle timeout of flows under `nat`, in ticks; 0 means the default of the settings. Written by
    /// the daemon.
    pub nat_idle_ticks: u32,
}

/// Limit of a service or class on new flows per source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceLimit {
    /// Burst, as nanoseconds of new flows.
    pub burst: u64,
    /// Bits of a client's address that identify a source.
    pub mask: Address,
    /// Nanoseconds between new flows at the sustained rate; at least 1.
    pub interval: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

/// A source as seen by one service or class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SourceKey {
    /// Common prefix of its clients' addresses.
    pub source: Address,
    /// Number of the service or class.
    pub policy: u16,
    #[doc(hidden)]
    pub _pad: [u16; 3],
}

impl SourceLimit {
    /// Returns the source of a client.
    #[inline(always)]
    pub const fn source(&self, client: Address) -> Address {
        let ([a, b], [c, d]) = (client.words(), self.mask.words());
        Address::from_v6([a & c, b & d])
    }
}

/// Refused flows of a service or class, on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AdmissionDrops([u64; 8]);

impl AdmissionDrops {
    /// Reasons that are counted, in the order of the counters.
    pub const REASONS: [DropReason; 6] = [
        DropReason::Denied,
        DropReason::Residency,
        DropReason::RateLimited,
        DropReason::SourceLimited,
        DropReason::Shed,
        DropReason::NoBackend,
    ];

    /// Increments the counter of a reason, if there is one.
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

    /// Adds the counters of another CPU.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.wrapping_add(more);
        }
    }

    /// Returns the counters by reason.
    pub fn counts(&self) -> impl Iterator<Item = (DropReason, u64)> {
        Self::REASONS.into_iter().zip(self.0)
    }
}
