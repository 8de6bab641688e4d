//! How many new flows a service takes: the generic cell rate algorithm (ITU-T I.371 annex A), which
//! is a token bucket with one word of state.

use crate::{abi::Service, tables::Tables};

/// Whether a service takes one more flow now. CPUs that ask in the same moment may both get the same
/// place: a node of n CPUs lets at most n - 1 flows more through at a time.
#[inline(always)]
pub(crate) fn takes_flow<T: Tables>(tables: &T, service: &Service) -> bool {
    if service.flow_interval == 0 {
        return true;
    }
    let now = tables.now_ns();
    let taken = tables.with_due(service.id, |due| {
        // A service that was idle has saved up no more than its burst.
        let from = if *due < now { now } else { *due };
        if from - now > service.flow_burst {
            return false;
        }
        *due = from + u64::from(service.flow_interval);
        true
    });
    taken.unwrap_or(false)
}
