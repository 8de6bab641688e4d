//! Tables that are to be built: what changed the state of members counts at once, tables follow.

use std::{
    collections::BTreeSet,
    mem,
    time::{Duration, Instant},
};

/// Slots above which a table is built at the next poll, and not for each backend that changes.
const LARGE: u32 = 4093;

/// Share of time for tables of backends whose ring changed, as time for each slot: a twentieth of a CPU that needs a
/// microsecond for one. Such changes may wait, and where all round trips change at once they come by the thousand.
const TIME_PER_SLOT: Duration = Duration::from_micros(20);
/// Most of that time that is saved up.
const MAX_SAVED: Duration = Duration::from_millis(100);

/// Policies whose tables are to be built, by their indexes, and measurements that wait for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct RebuildQueue {
    /// Large tables of members that changed.
    due: BTreeSet<usize>,
    /// Tables with members whose ring changed.
    moved: BTreeSet<usize>,
    /// Place to go on at among those, so that each has its turn.
    next: usize,
    /// Time from which on the next of those may be built.
    ready: Option<Instant>,
    /// Tables with members that became hot, or no longer are.
    heated: BTreeSet<usize>,
    /// Times of measurements whose tables are due.
    waiting: Vec<Instant>,
    /// Times of measurements of which all is written.
    written: Vec<Instant>,
}

impl RebuildQueue {
    /// Begins with another configuration: indexes have changed, and all tables are built.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Queues those of the policies with large tables, and returns the others.
    pub(crate) fn defer_large(
        &mut self,
        policies: &[usize],
        slots: impl Fn(usize) -> u32,
    ) -> Vec<usize> {
        let is_large = |policy: &usize| slots(*policy) > LARGE;
        let (large, small): (Vec<usize>, Vec<usize>) = policies.iter().copied().partition(is_large);
        self.due.extend(large);
        small
    }

    /// Queues policies with members whose ring, or weight, changed.
    pub(crate) fn move_rings(&mut self, policies: &[usize]) {
        self.moved.extend(policies);
    }

    /// Queues policies with members that became hot, or no longer are.
    pub(crate) fn heat(&mut self, policies: &[usize]) {
        self.heated.extend(policies);
    }

    /// Notes that the table of a policy is built.
    pub(crate) fn built(&mut self, policy: usize) {
        // Whatever it was built for, the rings of now are in it.
        self.moved.remove(&policy);
    }

    /// Takes the policies with large tables that are due.
    pub(crate) fn take_due(&mut self) -> Vec<usize> {
        mem::take(&mut self.due).into_iter().collect()
    }

    /// Takes the policies with members that became hot, or no longer are.
    pub(crate) fn take_heated(&mut self) -> BTreeSet<usize> {
        mem::take(&mut self.heated)
    }

    /// Takes a policy with members whose ring changed, if its table may be built now; `slots` gives the lengths of
    /// tables.
    pub(crate) fn next_moved(
        &mut self,
        slots: impl Fn(usize) -> u32,
        now: Instant,
    ) -> Option<usize> {
        let saved = now.checked_sub(MAX_SAVED).unwrap_or(now);
        let ready = self.ready.map_or(saved, |ready| ready.max(saved));
        if ready > now {
            return None;
        }
        let mut after = self.moved.range(self.next..);
        let policy = *after.next().or_else(|| self.moved.first())?;
        self.moved.remove(&policy);
        self.next = policy + 1;
        self.ready = Some(ready + TIME_PER_SLOT * slots(policy));
        Some(policy)
    }

    /// Notes that what a measurement changed is written, but for queued tables.
    pub(crate) fn measured(&mut self, at: Instant) {
        if self.due.is_empty() && self.heated.is_empty() {
            self.written.push(at);
        } else {
            self.waiting.push(at);
        }
    }

    /// Notes that queued tables are built.
    pub(crate) fn all_written(&mut self) {
        self.written.append(&mut self.waiting);
    }

    /// Takes the times of measurements that changed something, all of it written since the last call.
    pub(crate) fn take_written(&mut self) -> Vec<Instant> {
        mem::take(&mut self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_may_wait_take_a_share_of_the_time_and_each_has_its_turn() {
        let mut queue = RebuildQueue::default();
        let start = Instant::now() + Duration::from_secs(10);
        let mut built = Vec::new();
        for tick in 0..100 {
            // All of them are due again and again.
            queue.move_rings(&(0..100).collect::<Vec<_>>());
            let now = start + Duration::from_millis(20) * tick;
            while let Some(policy) = queue.next_moved(|_| 1000, now) {
                built.push(policy);
            }
        }
        // Two seconds at 50,000 slots a second, and what was saved up.
        assert!((100..=108).contains(&built.len()), "{}", built.len());
        let expected: Vec<usize> = (0..built.len()).map(|n| n % 100).collect();
        assert_eq!(built, expected);
    }
}
