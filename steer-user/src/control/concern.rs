//! Whom a backend concerns: what is known of one changes the tables of those that it may serve, and no others.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Controller, plan::Op};
use crate::{
    config::{Config, PolicyId},
    dataplane::Dataplane,
    domain::balance::Cause,
};

/// Tables of more slots are built when the loop looks the next time, and not for each backend that changes:
/// what counts at once is in the members' states.
const LARGE: u32 = 4093;

/// What building a table for backends that are nearer or farther now costs of the time that is given to that, for each
/// slot: of a CPU that needs a microsecond for one a twentieth. Such changes may wait, and where all round trips change
/// at once they come by the thousand.
const EACH_SLOT: Duration = Duration::from_micros(20);
/// How much of that time is saved up.
const SAVED: Duration = Duration::from_millis(100);

/// The places of backends, and of the policies that each concerns.
#[derive(Clone, Debug, Default)]
pub(super) struct Concern {
    places: HashMap<String, usize>,
    policies: Vec<Vec<usize>>,
    /// Policies whose tables are to be built.
    due: BTreeSet<usize>,
    /// Policies with members that are nearer or farther now.
    moved: BTreeSet<usize>,
    /// Where to go on among those, so that none of them waits for ever, and when.
    next: usize,
    ready: Option<Instant>,
    /// Policies with members that became hot, or no longer are.
    heated: BTreeSet<usize>,
    /// When those measurements were made whose tables are due.
    waiting: Vec<Instant>,
    /// When those were made of which all is written.
    written: Vec<Instant>,
}

impl Concern {
    pub(super) fn of(config: &Config, ids: &[PolicyId]) -> Self {
        let backends = config.backends.iter().enumerate();
        let mut policies = vec![Vec::new(); config.backends.len()];
        for (place, id) in ids.iter().enumerate() {
            let mut members = config.policy(*id).members(config);
            members.sort_unstable();
            members.dedup();
            for backend in members {
                policies[backend].push(place);
            }
        }
        Self {
            places: backends.map(|(i, b)| (b.name.clone(), i)).collect(),
            policies,
            due: BTreeSet::new(),
            moved: BTreeSet::new(),
            next: 0,
            ready: None,
            heated: BTreeSet::new(),
            waiting: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Notes that what a measurement changed is written, but for tables that are due.
    pub(super) fn note(&mut self, at: Instant) {
        if self.due.is_empty() && self.heated.is_empty() {
            self.written.push(at);
        } else {
            self.waiting.push(at);
        }
    }

    /// The index of a backend.
    pub(super) fn place(&self, backend: &str) -> Option<usize> {
        self.places.get(backend).copied()
    }

    /// A policy with members that moved whose table may be built now, by the lengths of the tables.
    fn take_moved(&mut self, tables: &[Range<u32>], now: Instant) -> Option<usize> {
        let saved = now.checked_sub(SAVED).unwrap_or(now);
        let ready = self.ready.map_or(saved, |ready| ready.max(saved));
        if ready > now {
            return None;
        }
        let mut after = self.moved.range(self.next..);
        let policy = *after.next().or_else(|| self.moved.first())?;
        self.moved.remove(&policy);
        self.next = policy + 1;
        self.ready = Some(ready + EACH_SLOT * tables.get(policy).map_or(0, len));
        Some(policy)
    }

    fn policies(&self, backend: &str) -> &[usize] {
        let place = self.place(backend);
        place.map_or(&[], |place| self.policies[place].as_slice())
    }
}

impl<D: Dataplane> Controller<D> {
    /// Writes what changed about one backend: the states of its members at once, and the tables that it
    /// concerns.
    pub(super) fn replan_of(&mut self, backend: &str, now: Instant) -> Result<()> {
        let concerned = self.concern.policies(backend).to_vec();
        let (large, small): (Vec<usize>, Vec<usize>) = concerned
            .into_iter()
            .partition(|policy| len(&self.tables[*policy]) > LARGE);
        let ops = self.member_ops_of(backend);
        self.apply(ops)?;
        self.concern.due.extend(large);
        self.rebuild(&small, backend, now)
    }

    /// Has tables built, when there is time, for a backend that is nearer or farther now.
    pub(super) fn move_rings(&mut self, backend: &str) {
        let concerned = self.concern.policies(backend).to_vec();
        self.concern.moved.extend(concerned);
    }

    /// Writes hot bits of a backend's members. Where that fills a tier follows at the next look.
    pub(super) fn reheat(&mut self, backend: &str) -> Result<()> {
        let concerned = self.concern.policies(backend).to_vec();
        self.concern.heated.extend(concerned);
        let ops = self.member_ops_of(backend);
        self.apply(ops)
    }

    /// Does what was put off.
    pub(super) fn catch_up(&mut self, now: Instant) -> Result<()> {
        let due: Vec<usize> = mem::take(&mut self.concern.due).into_iter().collect();
        if !due.is_empty() {
            self.rebuild(&due, "backends", now)?;
        }
        while let Some(policy) = self.concern.take_moved(&self.tables, now) {
            self.rebuild(&[policy], "rings", now)?;
        }
        for policy in mem::take(&mut self.concern.heated) {
            if self.frozen.is_none() && self.fills(policy, now) {
                self.retable(policy, "full", now);
            }
        }
        let waited = mem::take(&mut self.concern.waiting);
        self.concern.written.extend(waited);
        Ok(())
    }

    /// When those measurements were made that changed something, and all of it is written since this was
    /// asked last.
    pub fn take_written(&mut self) -> Vec<Instant> {
        mem::take(&mut self.concern.written)
    }

    /// Whether a tier of a policy has become full, or is no longer.
    fn fills(&self, policy: usize, now: Instant) -> bool {
        let name = self.config.policy(self.policies[policy]).name();
        let nothing = BTreeSet::new();
        let before = self.full.get(&name).unwrap_or(&nothing);
        let candidates = self.candidates(policy, now);
        candidates.is_some_and(|c| c.full(&self.balance_of(policy), before) != *before)
    }

    fn rebuild(&mut self, policies: &[usize], why: &str, now: Instant) -> Result<()> {
        self.look_for_panic_of(policies);
        let mut services: Vec<usize> = policies.iter().map(|p| self.policies[*p].service).collect();
        services.dedup();
        let ops: Vec<Op> = services
            .into_iter()
            .flat_map(|service| self.member_ops_of_service(service))
            .collect();
        self.apply(ops)?;
        if !self.thaw(now) {
            return Ok(());
        }
        for policy in policies {
            self.step(*policy, Cause::Loss, now);
            self.retable(*policy, why, now);
            // Whatever it was built for, the rings of now are in it.
            self.concern.moved.remove(policy);
        }
        if self.leaving {
            let ops = self.retired_ops(now);
            self.apply(ops)?;
        }
        Ok(())
    }
}

fn len(range: &Range<u32>) -> u32 {
    range.end - range.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_wait_takes_a_share_of_the_time_and_each_has_its_turn() {
        let mut concern = Concern::default();
        let tables: Vec<Range<u32>> = (0..100).map(|n| n * 1000..(n + 1) * 1000).collect();
        let start = Instant::now() + Duration::from_secs(10);
        let mut built = Vec::new();
        for tick in 0..100 {
            // All of them are due again and again.
            concern.moved.extend(0..100);
            let now = start + Duration::from_millis(20) * tick;
            while let Some(policy) = concern.take_moved(&tables, now) {
                built.push(policy);
            }
        }
        // Two seconds at 50,000 slots a second, and what was saved up.
        assert!((100..=108).contains(&built.len()), "{}", built.len());
        let expected: Vec<usize> = (0..built.len()).map(|n| n % 100).collect();
        assert_eq!(built, expected);
    }
}
