//! Garbage collection of the flow and nat tables: idle flows are removed, and what is left is counted.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::slots;
use crate::{
    control::site::Site,
    dataplane::{Dataplane, GcLimits, GcReport},
};

/// Progress of garbage collections, and what the last one found.
#[derive(Clone, Debug)]
pub(crate) struct GarbageCollection {
    begun: Instant,
    is_running: bool,
    /// Begin of the last one that ended.
    counted: Option<Instant>,
    /// Entries of flows in the flow and nat tables, by member.
    flows: HashMap<u16, usize>,
    /// Entries of the nat table.
    nat_entries: usize,
}

impl GarbageCollection {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            is_running: false,
            counted: None,
            flows: HashMap::new(),
            nat_entries: 0,
        }
    }

    /// Returns whether one is due. One runs at a time: the marks on the slots are its own.
    pub(crate) fn is_due(&self, interval: Duration, now: Instant) -> bool {
        !self.is_running && now.saturating_duration_since(self.begun) >= interval
    }

    /// Begins one.
    ///
    /// # Errors
    /// If the data path refuses.
    pub(crate) fn start(
        &mut self,
        site: &Site,
        limits: GcLimits,
        dataplane: &mut impl Dataplane,
        now: Instant,
    ) -> anyhow::Result<()> {
        self.begun = now;
        slots::mark_tracked(dataplane, &site.tables);
        dataplane.start_gc(limits)?;
        self.is_running = true;
        Ok(())
    }

    /// Takes what one found that has ended, and clears the marks of slots without flows.
    ///
    /// # Errors
    /// If it failed.
    pub(crate) fn poll(
        &mut self,
        site: &Site,
        dataplane: &mut impl Dataplane,
    ) -> anyhow::Result<Option<GcReport>> {
        let Some(sweep) = dataplane.take_gc_report() else {
            return Ok(None);
        };
        self.is_running = false;
        let sweep = sweep?;
        slots::untrack(dataplane, &site.tables, &sweep);
        self.count(&sweep);
        Ok(Some(sweep))
    }

    fn count(&mut self, sweep: &GcReport) {
        self.nat_entries = sweep.nat_flows.iter().map(|n| *n as usize).sum();
        self.flows.clear();
        for (_, member) in &sweep.tracked {
            *self.flows.entry(*member).or_default() += 1;
        }
        for (member, count) in (0..).zip(&sweep.nat_flows) {
            if *count > 0 {
                *self.flows.entry(member).or_default() += *count as usize;
            }
        }
        self.counted = Some(self.begun);
    }

    /// Entries of the nat table, as of the last one.
    pub(crate) fn nat_entries(&self) -> usize {
        self.nat_entries
    }

    /// Entries of a member's flows, as of the last one.
    pub(crate) fn flows(&self, member: u16) -> usize {
        self.flows.get(&member).copied().unwrap_or(0)
    }

    /// Returns whether the last one began after an instant: what an older one found may not be true any more.
    pub(crate) fn counted_since(&self, at: Instant) -> bool {
        self.counted.is_some_and(|counted| counted >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_both_tables_count_once_a_collection_has_ended() {
        let now = Instant::now();
        let mut gc = GarbageCollection::new(now);
        let second = Duration::from_secs(1);
        assert!(!gc.is_due(second * 2, now + second));
        assert!(gc.is_due(second * 2, now + second * 2));
        gc.begun = now + second;
        gc.count(&GcReport {
            tracked: vec![(7, 1), (8, 1), (9, 3)],
            nat_flows: vec![0, 2, 4],
            ..GcReport::default()
        });
        assert_eq!([1, 2, 3, 4].map(|id| gc.flows(id)), [4, 4, 1, 0]);
        assert_eq!(gc.nat_entries, 6);
        assert!(gc.counted_since(now) && !gc.counted_since(now + second * 2));
    }
}
