//! The watch over an engine that has work: something it counts has to change.

use std::time::{Duration, Instant};

/// Says for how long an engine with work made no progress.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    marks: Vec<f64>,
    /// When it last made progress, had no work, or began.
    since: Option<Instant>,
    /// When it last made progress.
    fresh: Option<Instant>,
    /// Whether it had work when it was last looked at.
    working: bool,
}

impl Progress {
    /// Takes what was read: requests in the engine, if it says how many, and whatever changes while
    /// it works. Where nothing of the kind is on the page nothing can be watched.
    pub(super) fn observe(&mut self, in_flight: Option<f64>, marks: &[f64], now: Instant) {
        let moved = self.marks != marks && !self.marks.is_empty() && !marks.is_empty();
        if moved {
            self.fresh = Some(now);
        }
        let before = self.working;
        self.working = in_flight.is_some_and(|n| n > 0.0) && !marks.is_empty();
        if moved || !before || !self.working {
            self.since = Some(now);
        }
        marks.clone_into(&mut self.marks);
    }

    /// For how long it has had work and made no progress; zero if it has none. Between two looks the
    /// time goes on: an engine that can't be read makes no progress that anybody sees.
    #[must_use]
    pub(super) fn stalled(&self, now: Instant) -> Duration {
        match self.since {
            Some(since) if self.working => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        }
    }

    /// Whether it had work when it was last looked at.
    #[must_use]
    pub(super) fn is_working(&self) -> bool {
        self.working
    }

    /// Whether it made progress within that time.
    #[must_use]
    pub(super) fn is_fresh(&self, within: Duration, now: Instant) -> bool {
        let fresh = self.fresh;
        fresh.is_some_and(|at| now.saturating_duration_since(at) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_without_progress_is_a_stall() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let stalled = |progress: &Progress, seconds| progress.stalled(at(seconds)).as_secs();
        let mut progress = Progress::default();
        assert_eq!(stalled(&progress, 9), 0, "nothing is known");

        progress.observe(Some(0.0), &[5.0], at(0));
        assert_eq!(stalled(&progress, 100), 0, "an idle engine does nothing");
        progress.observe(Some(2.0), &[5.0], at(100));
        assert_eq!(stalled(&progress, 101), 1, "since it is known to have work");
    }

    #[test]
    fn the_clock_of_a_stall_begins_with_the_work() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::default();
        progress.observe(Some(0.0), &[5.0, 1.0], at(0));
        progress.observe(Some(0.0), &[5.0, 1.0], at(9));
        progress.observe(Some(2.0), &[5.0, 1.0], at(10));
        progress.observe(Some(2.0), &[5.0, 1.0], at(12));
        assert_eq!(progress.stalled(at(12)), Duration::from_secs(2));
        // One that goes on is enough; so is one that begins anew.
        progress.observe(Some(2.0), &[5.0, 2.0], at(13));
        assert_eq!(progress.stalled(at(13)), Duration::ZERO);
        assert!(progress.is_fresh(Duration::from_secs(2), at(14)));
        assert!(!progress.is_fresh(Duration::from_secs(2), at(15)));
        progress.observe(Some(2.0), &[0.0, 0.0], at(14));
        assert_eq!(progress.stalled(at(20)), Duration::from_secs(6));
        // It is done.
        progress.observe(Some(0.0), &[0.0, 0.0], at(21));
        assert_eq!(progress.stalled(at(30)), Duration::ZERO);
    }

    #[test]
    fn without_anything_that_changes_there_is_no_watch() {
        let start = Instant::now();
        let mut progress = Progress::default();
        for seconds in 0..9 {
            progress.observe(Some(3.0), &[], start + Duration::from_secs(seconds));
        }
        assert_eq!(
            progress.stalled(start + Duration::from_secs(60)),
            Duration::ZERO
        );
        let mut unknown = Progress::default();
        unknown.observe(None, &[1.0], start);
        unknown.observe(None, &[1.0], start + Duration::from_secs(60));
        assert_eq!(
            unknown.stalled(start + Duration::from_secs(60)),
            Duration::ZERO
        );
    }
}
