//! Limit of the ICMP errors that are sent.

use steer_common::abi::age;

use crate::maps::ICMP_BUDGET;

/// Maximum number of ICMP errors that each CPU may send within [`ICMP_WINDOW_TICKS`]: about a thousand
/// a second.
const MAX_ICMP_PER_WINDOW: u32 = 256;
const ICMP_WINDOW_TICKS: u32 = 256;

/// Takes one ICMP error from the budget of this CPU. Returns false if there is none.
#[inline(always)]
pub(crate) fn take(now: u32) -> bool {
    let may_send = ICMP_BUDGET.with(0, |[since, count]| {
        if age(now, *since) >= ICMP_WINDOW_TICKS {
            *since = now;
            *count = 0;
        }
        *count += 1;
        *count <= MAX_ICMP_PER_WINDOW
    });
    may_send == Some(true)
}
