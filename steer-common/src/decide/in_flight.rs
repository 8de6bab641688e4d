//! Flows in flight: open flows under `nat`, counted for members with a limit.

use crate::{abi::Member, tables::Tables};

/// Counts flows of a member that started, or ended (negative), if their number is limited. Errors
/// (two CPUs that see the same end, evicted entries) are corrected by the daemon's garbage
/// collection.
#[inline(always)]
pub(crate) fn adjust<T: Tables>(tables: &T, id: u16, by: i64) {
    if by == 0 {
        return;
    }
    let Some(member) = tables.member(id) else {
        return;
    };
    if member.max_in_flight != 0 {
        tables.add_in_flight(id, by);
    }
}

/// Returns whether a member has reached its limit of flows: it counts as hot.
#[inline(always)]
pub(crate) fn is_at_limit<T: Tables>(tables: &T, id: u16, member: &Member) -> bool {
    member.max_in_flight != 0 && tables.in_flight(id) >= i64::from(member.max_in_flight)
}
