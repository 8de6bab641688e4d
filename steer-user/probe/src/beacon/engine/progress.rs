//! Progress watch: while an engine has work, one of its counters must change.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::signals::{EngineSignals, ProgressMark};

/// Multiple of its last interval after which a counter with few digits counts as standing still.
const COARSE_FACTOR: u32 = 4;

/// Time without progress of an engine with work.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    marks: Vec<Watched>,
    /// Time of the last progress, of the last idle page, or of the start.
    since: Option<Instant>,
    /// Time of the last progress.
    moved: Option<Instant>,
    /// Whether it had work on the last page.
    working: bool,
    ranks: BTreeMap<String, RankWatch>,
}

/// A changing value, with the number of its changes.
#[derive(Clone, Debug)]
struct Watched {
    mark: ProgressMark,
    moved: Option<Instant>,
    /// Time between its last two changes.
    interval: Option<Duration>,
}

/// State of one data-parallel rank.
#[derive(Clone, Copy, Debug)]
struct RankWatch {
    /// Time of its last progress, of its last idle page, or of the start.
    since: Instant,
    /// Length of its queue at that time.
    waiting_then: f64,
    waiting: f64,
    working: bool,
}

impl Progress {
    /// Records a page. Without a changing value there is nothing to watch.
    pub(super) fn observe(&mut self, reading: &EngineSignals, now: Instant) {
        let changed = self.update_marks(&reading.progress, now);
        let moved = !changed.is_empty();
        if moved {
            self.moved = Some(now);
        }
        let before = self.working;
        self.working = reading.in_flight().is_some_and(|n| n > 0.0) && !self.marks.is_empty();
        if moved || !before || !self.working {
            self.since = Some(now);
        }
        self.update_ranks(reading, &changed, now);
    }

    /// Records the values of a page, and returns the ranks of those that changed.
    fn update_marks(&mut self, marks: &[ProgressMark], now: Instant) -> Vec<String> {
        let is_same = self.marks.len() == marks.len()
            && (self.marks.iter().zip(marks)).all(|(old, new)| old.mark.rank == new.rank);
        if !is_same {
            // Series appear with the first request of their kind, which is progress.
            let grown = !self.marks.is_empty() && !marks.is_empty();
            let moved = grown.then_some(now);
            let watched = |mark: &ProgressMark| Watched {
                mark: mark.clone(),
                moved,
                interval: None,
            };
            self.marks = marks.iter().map(watched).collect();
            let ranks = marks.iter().map(|mark| mark.rank.clone());
            return if grown { ranks.collect() } else { Vec::new() };
        }
        let mut changed = Vec::new();
        for (watched, mark) in self.marks.iter_mut().zip(marks) {
            if watched.mark.value != mark.value {
                let before = watched.moved.replace(now);
                watched.interval = before.map(|at| now.saturating_duration_since(at));
                changed.push(mark.rank.clone());
            }
            watched.mark = mark.clone();
        }
        changed
    }

    fn update_ranks(&mut self, reading: &EngineSignals, changed: &[String], now: Instant) {
        if reading.ranks.len() < 2 {
            self.ranks.clear();
            return;
        }
        self.ranks
            .retain(|name, _| reading.ranks.contains_key(name));
        for (name, rank) in &reading.ranks {
            let waiting = rank.waiting.unwrap_or(0.0);
            let is_watched = self.marks.iter().any(|watched| watched.mark.rank == *name);
            let working = rank.in_flight() > 0.0 && is_watched;
            let fresh = RankWatch {
                since: now,
                waiting_then: waiting,
                waiting,
                working,
            };
            let watch = self.ranks.entry(name.clone()).or_insert(fresh);
            if changed.contains(name) || !watch.working || !working {
                *watch = fresh;
            }
            watch.waiting = waiting;
        }
    }

    /// Returns the time with work and without progress; zero if it has no work, or if its counters
    /// could not show any progress. Between pages the time continues: an unreadable engine shows no
    /// progress.
    #[must_use]
    pub(super) fn stalled(&self, now: Instant) -> Duration {
        if self.is_blind(now) {
            return Duration::ZERO;
        }
        self.standing_still(now)
    }

    fn standing_still(&self, now: Instant) -> Duration {
        match self.since {
            Some(since) if self.working => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        }
    }

    /// Returns whether it has work, and a counter with too few digits to show progress.
    #[must_use]
    pub(super) fn is_blind(&self, now: Instant) -> bool {
        let still = self.standing_still(now);
        let coarse = self.marks.iter().filter(|watched| watched.mark.step > 1.0);
        let mut shows_nothing =
            coarse.map(|watched| watched.interval.is_none_or(|i| still < i * COARSE_FACTOR));
        !still.is_zero() && shows_nothing.any(|blind| blind)
    }

    /// Returns the ranks that have stood still for this time while their queues grew and another
    /// rank made progress.
    #[must_use]
    pub(super) fn stuck(&self, after: Duration, now: Instant) -> Vec<(&str, Duration)> {
        if !self.is_fresh(after, now) {
            return Vec::new();
        }
        let stuck = self.ranks.iter().filter_map(|(name, rank)| {
            let still = now.saturating_duration_since(rank.since);
            let grows = rank.waiting > rank.waiting_then;
            (rank.working && grows && still >= after).then_some((name.as_str(), still))
        });
        stuck.collect()
    }

    /// Returns whether its page has any value that changes while it works.
    #[must_use]
    pub(super) fn is_watching(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Returns whether it had work on the last page.
    #[must_use]
    pub(super) fn is_working(&self) -> bool {
        self.working
    }

    /// Returns the time of its last progress.
    #[must_use]
    pub(super) fn last_moved(&self) -> Option<Instant> {
        self.moved
    }

    /// Returns whether it made progress within this time.
    #[must_use]
    pub(super) fn is_fresh(&self, within: Duration, now: Instant) -> bool {
        let moved = self.moved;
        moved.is_some_and(|at| now.saturating_duration_since(at) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::signals::Rank, *};

    fn reading(in_flight: Option<f64>, marks: &[f64]) -> EngineSignals {
        let mark = |value: &f64| ProgressMark {
            value: *value,
            ..ProgressMark::default()
        };
        EngineSignals {
            running: in_flight,
            progress: marks.iter().map(mark).collect(),
            ..EngineSignals::default()
        }
    }

    #[test]
    fn work_without_progress_is_a_stall() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let stalled = |progress: &Progress, seconds| progress.stalled(at(seconds)).as_secs();
        let mut progress = Progress::default();
        assert_eq!(stalled(&progress, 9), 0, "nothing is known");

        progress.observe(&reading(Some(0.0), &[5.0]), at(0));
        assert_eq!(stalled(&progress, 100), 0, "an idle engine does nothing");
        progress.observe(&reading(Some(2.0), &[5.0]), at(100));
        assert_eq!(stalled(&progress, 101), 1, "since it is known to have work");
    }

    #[test]
    fn the_clock_of_a_stall_begins_with_the_work() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::default();
        progress.observe(&reading(Some(0.0), &[5.0, 1.0]), at(0));
        progress.observe(&reading(Some(0.0), &[5.0, 1.0]), at(9));
        progress.observe(&reading(Some(2.0), &[5.0, 1.0]), at(10));
        progress.observe(&reading(Some(2.0), &[5.0, 1.0]), at(12));
        assert_eq!(progress.stalled(at(12)), Duration::from_secs(2));
        // One counter with progress is enough, and so is one that restarts.
        progress.observe(&reading(Some(2.0), &[5.0, 2.0]), at(13));
        assert_eq!(progress.stalled(at(13)), Duration::ZERO);
        assert!(progress.is_fresh(Duration::from_secs(2), at(14)));
        assert!(!progress.is_fresh(Duration::from_secs(2), at(15)));
        progress.observe(&reading(Some(2.0), &[0.0, 0.0]), at(14));
        assert_eq!(progress.stalled(at(20)), Duration::from_secs(6));
        // The work is done.
        progress.observe(&reading(Some(0.0), &[0.0, 0.0]), at(21));
        assert_eq!(progress.stalled(at(30)), Duration::ZERO);
    }

    #[test]
    fn without_anything_that_changes_there_is_no_watch() {
        let start = Instant::now();
        let mut progress = Progress::default();
        for seconds in 0..9 {
            let now = start + Duration::from_secs(seconds);
            progress.observe(&reading(Some(3.0), &[]), now);
        }
        let later = start + Duration::from_secs(60);
        assert_eq!(progress.stalled(later), Duration::ZERO);
        let mut unknown = Progress::default();
        unknown.observe(&reading(None, &[1.0]), start);
        assert_eq!(unknown.stalled(later), Duration::ZERO);
    }

    #[test]
    fn a_counter_of_six_digits_does_not_show_that_it_stands_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let coarse = |value| {
            let mut reading = reading(Some(1.0), &[7.0, value]);
            reading.progress[1].step = 10.0;
            reading
        };
        let mut progress = Progress::default();
        for seconds in 0..100 {
            progress.observe(&coarse(1_234_560.0), at(seconds));
        }
        assert_eq!(progress.stalled(at(100)), Duration::ZERO);
        assert!(progress.is_blind(at(100)));
        // It is now known to change every 12 s: four times that without a change is a stall.
        progress.observe(&coarse(1_234_570.0), at(100));
        progress.observe(&coarse(1_234_580.0), at(112));
        assert_eq!(progress.stalled(at(159)), Duration::ZERO);
        assert_eq!(progress.stalled(at(160)), Duration::from_secs(48));
        assert!(!progress.is_blind(at(160)));
    }

    #[test]
    fn a_rank_that_stands_still_while_its_queue_grows_is_stuck() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let after = Duration::from_secs(10);
        let ranks = |tokens: [f64; 2], waiting: [f64; 2]| {
            let mut reading = reading(Some(4.0), &tokens);
            for (index, name) in ["0", "1"].into_iter().enumerate() {
                reading.progress[index].rank = name.to_owned();
                let rank = Rank {
                    running: Some(2.0),
                    waiting: Some(waiting[index]),
                    kv_use: None,
                };
                reading.ranks.insert(name.to_owned(), rank);
            }
            reading
        };
        let mut progress = Progress::default();
        for second in 0..30_u32 {
            let queue = f64::from(second / 4);
            let page = ranks([f64::from(second), 5.0], [0.0, queue]);
            progress.observe(&page, at(second.into()));
        }
        let stuck = progress.stuck(after, at(29));
        assert_eq!(stuck, [("1", Duration::from_secs(29))]);
        assert_eq!(progress.stalled(at(29)), Duration::ZERO);
        // It makes progress.
        progress.observe(&ranks([30.0, 6.0], [0.0, 8.0]), at(30));
        assert!(progress.stuck(after, at(31)).is_empty());
        // A rank with a long prompt and no queue is not stuck, and neither is one of many that all
        // stand still.
        let mut progress = Progress::default();
        for second in 0..30_u32 {
            let page = ranks([f64::from(second), 5.0], [0.0, 0.0]);
            progress.observe(&page, at(second.into()));
        }
        assert!(progress.stuck(after, at(29)).is_empty());
        assert!(progress.stuck(after, at(60)).is_empty());
    }
}
