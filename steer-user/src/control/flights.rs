//! Puts right what the kernel counts of flows in flight, by what sweeps find.

use super::Controller;
use crate::dataplane::{Dataplane, Sweep};

/// Flows in flight as they were counted when the sweep began, of the members that are limited.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights(Vec<(u16, i64)>);

impl<D: Dataplane> Controller<D> {
    /// Takes what is counted before a sweep.
    pub(super) fn note_in_flight(&mut self) {
        let numbers = self.numbers.members.values().copied();
        let limited = numbers.filter(|id| self.dataplane.member(*id).max_in_flight != 0);
        let counted = limited.map(|id| (id, self.dataplane.in_flight(id)));
        self.flights = Flights(counted.collect());
    }

    /// Puts the counts right.
    pub(super) fn correct_in_flight(&mut self, sweep: &Sweep) {
        for (id, before) in std::mem::take(&mut self.flights).0 {
            let found = sweep.in_flight.get(usize::from(id)).copied().unwrap_or(0);
            let now = self.dataplane.in_flight(id);
            let by = drift(before, now, i64::from(found));
            if by != 0 {
                self.dataplane.add_in_flight(id, by);
            }
        }
    }
}

/// How much a count is wrong. Flows that came and went during the sweep were found or not: what lies
/// between the counts before and after it is right.
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
