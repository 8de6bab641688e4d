//! Counters of members and drops.

use steer_common::abi::{Signal, bucket};

use crate::{
    atomic,
    maps::{DROP_COUNTS, MEMBER_LATENCY, MEMBER_SIGNALS},
};

/// Counts a drop by the number of its reason.
#[inline(always)]
pub(crate) fn count_drop(reason: u32) {
    DROP_COUNTS.with(reason, |count| *count += 1);
}

/// Counts a latency of a member: a [`Measure`](steer_common::abi::Measure) by its number.
#[inline(always)]
pub(crate) fn record_latency(id: u16, measure: u8, ns: u64) {
    let Some(measured) = MEMBER_LATENCY.get_ptr_mut(u32::from(id)) else {
        return;
    };
    // SAFETY: as in `PerCpu::with`.
    let measured = unsafe { &mut *measured };
    if let Some(histogram) = measured.0.get_mut(usize::from(measure & 3))
        && let Some(count) = histogram.get_mut(bucket(ns) as usize)
    {
        *count = count.wrapping_add(1);
    }
}

/// Counts a sign of trouble with a member.
#[inline(always)]
pub(crate) fn count_signal(id: u16, signal: Signal) {
    let Some(signals) = MEMBER_SIGNALS.get_ptr_mut(u32::from(id)) else {
        return;
    };
    // SAFETY: a field of an element, all of which are of this type, one for each signal.
    unsafe { atomic::add(signals.cast::<u64>().add(signal as usize), 1) };
}
