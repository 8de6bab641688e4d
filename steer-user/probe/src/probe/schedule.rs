//! Schedule of probes.

use std::{
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use siphasher::sip::SipHasher13;

/// Budget shared by all probes of a node.
#[derive(Debug)]
pub struct Budget {
    interval: Duration,
    fast: Duration,
    handshake_every: Duration,
    /// Number of probes in their fast period, and its limit.
    now: AtomicUsize,
    most: usize,
}

/// Fresh connections per second; each costs as much as dozens of probes.
const MAX_HANDSHAKES_PER_SECOND: f64 = 20.0;
/// Divisor of the usual period that gives the fast one.
const FAST_PROBES: u32 = 4;
/// Longest period over which first probes are spread.
const MAX_PHASE: Duration = Duration::from_secs(1);
/// Lower bound of a period.
const MIN_INTERVAL: Duration = Duration::from_millis(5);

impl Budget {
    /// Creates the budget of `probes` probes, each due every `interval` with a fresh connection
    /// every `handshake_every`, while the node sends at most `budget` per second.
    #[must_use]
    pub fn new(
        probes: usize,
        interval: Duration,
        handshake_every: Duration,
        budget: f64,
    ) -> Arc<Self> {
        let share = |rate: f64| Duration::from_secs_f64(probes as f64 / rate.max(1.0));
        let fast = (interval / FAST_PROBES).max(MIN_INTERVAL);
        Arc::new(Self {
            interval: interval.max(share(budget)),
            fast,
            handshake_every: handshake_every.max(share(MAX_HANDSHAKES_PER_SECOND)),
            now: AtomicUsize::new(0),
            // Half of the budget on top, for many failures at once.
            most: ((budget * fast.as_secs_f64() / 2.0) as usize).max(1),
        })
    }

    /// Returns the interval between fresh connections.
    #[must_use]
    pub fn handshake_every(&self) -> Duration {
        self.handshake_every
    }

    fn start_fast(self: &Arc<Self>) -> Option<FastSlot> {
        let more = |now: usize| (now < self.most).then_some(now + 1);
        let order = Ordering::Relaxed;
        self.now
            .fetch_update(order, order, more)
            .is_ok()
            .then(|| FastSlot(Arc::clone(self)))
    }
}

/// A slot among the fast probes.
#[derive(Debug)]
pub(super) struct FastSlot(Arc<Budget>);

impl Drop for FastSlot {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Schedule of one probe: its usual period, and a shorter one for a few probes after its outcome
/// changed, so that `rise` and `fall` are reached soon.
#[derive(Debug)]
pub(super) struct Schedule {
    budget: Arc<Budget>,
    fast: Option<FastSlot>,
    last: Option<bool>,
    /// Number of fast probes after a change.
    worth: u32,
    left: u32,
    /// Shortest period that its beacon allows.
    asked: Duration,
}

impl Schedule {
    pub(super) fn new(budget: Arc<Budget>, worth: u32) -> Self {
        Self {
            budget,
            fast: None,
            last: None,
            worth,
            left: 0,
            asked: Duration::ZERO,
        }
    }

    /// Returns the time after an unanswered probe at which another one may be sent, if the node's
    /// budget and the beacon allow it.
    pub(super) fn min_interval(&self) -> Option<Duration> {
        (self.asked <= self.budget.fast).then_some(self.budget.fast)
    }

    /// Reserves a slot for an additional probe.
    pub(super) fn fast_slot(&self) -> Option<FastSlot> {
        self.budget.start_fast()
    }

    /// Returns the delay of the first probe: a position in the period that depends on the names, so
    /// that neither the probes of a node nor the nodes of a backend are in lockstep.
    pub(super) fn phase(&self, node: &str, name: &str) -> Duration {
        let hash = Seeded.hash_one((node, name));
        let period = self.budget.interval.min(MAX_PHASE);
        period.mul_f64(hash as f64 / u64::MAX as f64)
    }

    /// Records an outcome with the limit of its beacon, and returns the wait until the next probe.
    pub(super) fn next(&mut self, ok: bool, per_second: Option<f64>) -> Duration {
        if let Some(rate) = per_second.filter(|rate| *rate > 0.0) {
            self.asked = Duration::from_secs_f64((1.0 / rate).min(60.0));
        } else if ok {
            self.asked = Duration::ZERO;
        }
        let changed = self.last.is_some_and(|last| last != ok);
        self.last = Some(ok);
        if changed {
            self.left = self.worth;
        } else {
            self.left = self.left.saturating_sub(1);
        }
        if self.left == 0 {
            self.fast = None;
        } else if self.fast.is_none() {
            self.fast = self.budget.start_fast();
        }
        let period = match self.fast {
            Some(_) => self.budget.fast,
            None => self.budget.interval,
        };
        period.max(self.asked)
    }
}

struct Seeded;

impl BuildHasher for Seeded {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn budget(probes: usize, per_second: f64) -> Arc<Budget> {
        Budget::new(probes, 100 * MS, 30_000 * MS, per_second)
    }

    #[test]
    fn a_change_is_followed_by_a_few_fast_probes() {
        let mut pace = Schedule::new(budget(1, 1000.0), 2);
        let mut next = |ok| pace.next(ok, None).as_millis();
        let got: Vec<_> = [true, true, false, false, false, false, true, true, true]
            .map(&mut next)
            .into();
        assert_eq!(got, [100, 100, 25, 25, 100, 100, 25, 25, 100]);
    }

    #[test]
    fn a_beacon_is_not_asked_faster_than_it_allows() {
        let mut pace = Schedule::new(budget(1, 1000.0), 2);
        assert_eq!(pace.next(true, Some(5.0)), 200 * MS);
        assert_eq!(pace.next(false, None), 200 * MS, "what it said last counts");
        assert_eq!(pace.next(true, Some(1000.0)), 25 * MS);
        assert_eq!(pace.next(true, None), 25 * MS);
        assert_eq!(pace.next(true, Some(1e-9)), 60_000 * MS);
    }

    #[test]
    fn a_node_stays_within_its_budget() {
        let shared = budget(10_000, 4000.0);
        let mut steady = Schedule::new(shared.clone(), 2);
        assert_eq!(steady.next(true, None), 2500 * MS);
        assert_eq!(shared.handshake_every(), Duration::from_secs(500));
        // All of them fail at once.
        let mut all: Vec<Schedule> = (0..10_000)
            .map(|_| Schedule::new(shared.clone(), 2))
            .collect();
        let per_second =
            |periods: Vec<Duration>| -> f64 { periods.iter().map(|p| 1.0 / p.as_secs_f64()).sum() };
        for pace in &mut all {
            pace.next(true, None);
        }
        let rate = per_second(all.iter_mut().map(|p| p.next(false, None)).collect());
        assert!((4000.0..=6001.0).contains(&rate), "{rate}");
        // Slots are released.
        for _ in 0..2 {
            for pace in &mut all {
                pace.next(false, None);
            }
        }
        assert_eq!(shared.now.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn phases_are_spread_and_always_the_same() {
        let pace = Schedule::new(budget(1, 1000.0), 2);
        let phases: Vec<_> = (0..100)
            .map(|i| pace.phase("n", &format!("b{i}")))
            .collect();
        assert!(phases.iter().all(|p| *p <= 100 * MS));
        let early = phases.iter().filter(|p| **p < 50 * MS).count();
        assert!((30..=70).contains(&early), "{early}");
        assert_eq!(pace.phase("n", "b0"), phases[0]);
        assert_ne!(pace.phase("m", "b0"), phases[0]);
    }
}
