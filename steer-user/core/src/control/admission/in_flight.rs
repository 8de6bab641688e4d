//! Flows in flight: corrects what the kernel counts by what garbage collections find.

use steer_common::abi::member_flags;

use crate::{
    control::site::Site,
    dataplane::{Dataplane, GcReport},
};

/// Flows in flight of the limited members, as they were counted when a garbage collection began.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight(Vec<(u16, i64)>);

impl InFlight {
    /// Reads the counts before a garbage collection.
    pub(crate) fn read(&mut self, site: &Site, dataplane: &impl Dataplane) {
        let ids = site.ids.members.values().copied();
        let limited = ids.filter(|id| dataplane.member(*id).max_in_flight != 0);
        self.0 = limited.map(|id| (id, dataplane.in_flight(id))).collect();
    }

    /// Corrects the counts by what it found.
    pub(crate) fn correct(&mut self, dataplane: &mut impl Dataplane, sweep: &GcReport) {
        for (id, before) in std::mem::take(&mut self.0) {
            let found = sweep.in_flight.get(usize::from(id)).copied().unwrap_or(0);
            let now = dataplane.in_flight(id);
            let by = drift(before, now, i64::from(found));
            if by != 0 {
                dataplane.add_in_flight(id, by);
            }
        }
    }
}

/// Returns whether new flows avoid a member for its load, or for its number of open flows.
pub(crate) fn is_hot(dataplane: &impl Dataplane, id: u16) -> bool {
    let member = dataplane.member(id);
    let limit = i64::from(member.max_in_flight);
    let full = limit != 0 && dataplane.in_flight(id) >= limit;
    full || member.flags & member_flags::HOT != 0
}

/// Error of a count. Flows that came and went during the collection were found or not: what lies between the counts
/// before and after it is right.
fn drift(before: i64, now: i64, found: i64) -> i64 {
    found - found.clamp(before.min(now), before.max(now))
}

#[cfg(test)]
mod tests {
    use super::drift;

    #[test]
    fn only_what_cannot_be_is_put_right() {
        assert_eq!(drift(5, 5, 5), 0);
        assert_eq!(drift(5, 9, 7), 0);
        assert_eq!(drift(9, 5, 7), 0);
        assert_eq!(drift(5, 5, 3), -2);
        assert_eq!(drift(5, 9, 12), 3);
        assert_eq!(drift(-2, -1, 0), 1);
    }
}
