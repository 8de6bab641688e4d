//! Flows in flight: those under `nat` that are open, counted where a member may have only so many.

use crate::{abi::Member, tables::Tables};

/// Counts flows of a member that began, or ended (less than 0), if their number is limited. What is
/// missed (two CPUs that see the same end, entries that go unseen) the daemon's sweep puts right.
#[inline(always)]
pub(crate) fn count<T: Tables>(tables: &T, id: u16, by: i64) {
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

/// Returns whether a member has all the flows that it may have: it counts as hot.
#[inline(always)]
pub(crate) fn is_full<T: Tables>(tables: &T, id: u16, member: &Member) -> bool {
    member.max_in_flight != 0 && tables.in_flight(id) >= i64::from(member.max_in_flight)
}
