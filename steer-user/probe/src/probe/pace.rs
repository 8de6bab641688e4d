//! When the next probe is sent.

use std::{
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use siphasher::sip::SipHasher13;

/// What all probes of a node share, so that they stay within its budget.
#[derive(Debug)]
pub struct Budget {
    interval: Duration,
    fast: Duration,
    handshake_every: Duration,
    /// Probes in their fast period, and how many may be.
    now: AtomicUsize,
    most: usize,
}

/// Fresh connections a second; each costs as much as dozens of probes.
const HANDSHAKES: f64 = 20.0;
/// A fast period is so much shorter than the usual one.
const FASTER: u32 = 4;
/// First probes are spread over no longer.
const PHASES: Duration = Duration::from_secs(1);
/// No period is shorter.
const SHORTEST: Duration = Duration::from_millis(5);

impl Budget {
    /// Of `probes` probes that would like to go out every `interval`, with fresh connections every
    /// `handshake_every`, while the node sends at most `budget` a second.
    #[must_use]
    pub fn new(
        probes: usize,
        interval: Duration,
        handshake_every: Duration,
        budget: f64,
    ) -> Arc<Self> {
        let share = |rate: f64| Duration::from_secs_f64(probes as f64 / rate.max(1.0));
        let fast = (interval / FASTER).max(SHORTEST);
        Arc::new(Self {
            interval: interval.max(share(budget)),
            fast,
            handshake_every: handshake_every.max(share(HANDSHAKES)),
            now: AtomicUsize::new(0),
            // Half of the budget again, when much fails at once.
            most: ((budget * fast.as_secs_f64() / 2.0) as usize).max(1),
        })
    }

    /// From one fresh connection to the next.
    #[must_use]
    pub fn handshake_every(&self) -> Duration {
        self.handshake_every
    }

    fn begin_fast(self: &Arc<Self>) -> Option<Fast> {
        let more = |now: usize| (now < self.most).then_some(now + 1);
        let order = Ordering::Relaxed;
        self.now
            .fetch_update(order, order, more)
            .is_ok()
            .then(|| Fast(Arc::clone(self)))
    }
}

/// A place among the fast ones.
#[derive(Debug)]
pub(super) struct Fast(Arc<Budget>);

impl Drop for Fast {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pace of one probe: its usual period, and a shorter one for a few probes after its outcome
/// changed, so that what `rise` and `fall` wait for comes soon.
#[derive(Debug)]
pub(super) struct Pace {
    budget: Arc<Budget>,
    fast: Option<Fast>,
    last: Option<bool>,
    /// Fast probes that a change is worth.
    worth: u32,
    left: u32,
    /// The shortest period that its beacon allows.
    asked: Duration,
}

impl Pace {
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

    /// How long after a probe that is not answered another one may go out, if there is room for it in the
    /// node's budget and the beacon allows it.
    pub(super) fn again_after(&self) -> Option<Duration> {
        (self.asked <= self.budget.fast).then_some(self.budget.fast)
    }

    /// A place for a probe besides those that are due.
    pub(super) fn place(&self) -> Option<Fast> {
        self.budget.begin_fast()
    }

    /// When the first probe goes out: at a place within the period that its name has, so that
    /// neither the probes of a node nor the nodes of a backend are in step.
    pub(super) fn phase(&self, node: &str, name: &str) -> Duration {
        let hash = Seeded.hash_one((node, name));
        let period = self.budget.interval.min(PHASES);
        period.mul_f64(hash as f64 / u64::MAX as f64)
    }

    /// Takes an outcome, with what its beacon allows, and says how long to wait for the next probe.
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
            self.fast = self.budget.begin_fast();
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
        let mut pace = Pace::new(budget(1, 1000.0), 2);
        let mut next = |ok| pace.next(ok, None).as_millis();
        let got: Vec<_> = [true, true, false, false, false, false, true, true, true]
            .map(&mut next)
            .into();
        assert_eq!(got, [100, 100, 25, 25, 100, 100, 25, 25, 100]);
    }

    #[test]
    fn a_beacon_is_not_asked_faster_than_it_allows() {
        let mut pace = Pace::new(budget(1, 1000.0), 2);
        assert_eq!(pace.next(true, Some(5.0)), 200 * MS);
        assert_eq!(pace.next(false, None), 200 * MS, "what it said last counts");
        assert_eq!(pace.next(true, Some(1000.0)), 25 * MS);
        assert_eq!(pace.next(true, None), 25 * MS);
        assert_eq!(pace.next(true, Some(1e-9)), 60_000 * MS);
    }

    #[test]
    fn a_node_stays_within_its_budget() {
        let shared = budget(10_000, 4000.0);
        let mut steady = Pace::new(shared.clone(), 2);
        assert_eq!(steady.next(true, None), 2500 * MS);
        assert_eq!(shared.handshake_every(), Duration::from_secs(500));
        // All of them fail at once.
        let mut all: Vec<Pace> = (0..10_000).map(|_| Pace::new(shared.clone(), 2)).collect();
        let per_second =
            |periods: Vec<Duration>| -> f64 { periods.iter().map(|p| 1.0 / p.as_secs_f64()).sum() };
        for pace in &mut all {
            pace.next(true, None);
        }
        let rate = per_second(all.iter_mut().map(|p| p.next(false, None)).collect());
        assert!((4000.0..=6001.0).contains(&rate), "{rate}");
        // Places are given back.
        for _ in 0..2 {
            for pace in &mut all {
                pace.next(false, None);
            }
        }
        assert_eq!(shared.now.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn phases_are_spread_and_always_the_same() {
        let pace = Pace::new(budget(1, 1000.0), 2);
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
