//! Schedule of tiny completions.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Upper bound of questions in any minute.
const MAX_PER_MINUTE: usize = 12;
const MINUTE: Duration = Duration::from_secs(60);
/// Time for which a sign of trouble is ignored after a question about it was answered; doubled with
/// each further one.
const FIRST_QUIET: Duration = Duration::from_secs(10);
const MAX_QUIET: Duration = Duration::from_secs(300);
/// Pause after a failed question; doubled with each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY: Duration = Duration::from_secs(10);

/// Reason for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The last question failed.
    Failed,
    /// A sign of trouble exists.
    Hint,
    /// Unknown whether the engine works: it is idle, or reports too little.
    Unknown,
    /// No reason: the engine makes progress, sleeps, or reports that it is not ready.
    Nothing,
}

/// Questions so far, and the time of the next one.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Interval of questions to an engine in unknown state; `None` disables questions.
    idle_every: Option<Duration>,
    begun: Instant,
    recent: VecDeque<Instant>,
    answered: Option<Instant>,
    /// Consecutive answers while the sign of trouble stayed.
    quiet_steps: u32,
    failed: Option<Instant>,
    failures: u32,
    /// Random factor from 0.9 to 1 for each question, so that beacons are not in lockstep.
    jitter: f64,
}

impl Schedule {
    pub(super) fn new(idle_every: Option<Duration>, now: Instant) -> Self {
        Self {
            idle_every,
            begun: now,
            recent: VecDeque::new(),
            answered: None,
            quiet_steps: 0,
            failed: None,
            failures: 0,
            jitter: 1.0,
        }
    }

    /// Returns whether a question is due, and counts it if so.
    pub(super) fn start(&mut self, occasion: Occasion, now: Instant, random: f64) -> bool {
        while (self.recent.front()).is_some_and(|at| since(*at, now) >= MINUTE) {
            self.recent.pop_front();
        }
        if self.recent.len() >= MAX_PER_MINUTE || !self.is_due(occasion, now) {
            return false;
        }
        self.recent.push_back(now);
        self.jitter = 1.0 - 0.1 * random.clamp(0.0, 1.0);
        true
    }

    fn is_due(&self, occasion: Occasion, now: Instant) -> bool {
        let wait = match occasion {
            Occasion::Nothing => return false,
            Occasion::Failed => {
                let wait = doubled(FIRST_RETRY, self.failures, MAX_RETRY);
                wait.min(self.idle_every.unwrap_or(MAX_RETRY))
            }
            Occasion::Hint if self.quiet_steps == 0 => return true,
            Occasion::Hint => self.quiet(),
            Occasion::Unknown => match self.idle_every {
                Some(every) => every,
                None => return false,
            },
        };
        let last = self.answered.max(self.failed).unwrap_or(self.begun);
        since(last, now) >= wait.mul_f64(self.jitter)
    }

    fn quiet(&self) -> Duration {
        doubled(FIRST_QUIET, self.quiet_steps, MAX_QUIET)
    }

    /// Records an answer. `about_hint` tells that it answered a sign of trouble, which is ignored
    /// for a while.
    pub(super) fn answered(&mut self, about_hint: bool, now: Instant) {
        self.answered = Some(now);
        (self.failed, self.failures) = (None, 0);
        if about_hint {
            self.quiet_steps += 1;
        }
    }

    /// Records a failure.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failed = Some(now);
        self.failures += 1;
    }

    /// Records progress of the engine: the next sign of trouble is a new one.
    pub(super) fn progressed(&mut self) {
        self.quiet_steps = 0;
        (self.failed, self.failures) = (None, 0);
    }

    /// Returns the time until which a sign of trouble is ignored.
    pub(super) fn quiet_until(&self) -> Option<Instant> {
        let answered = self.answered.filter(|_| self.quiet_steps > 0);
        Some(answered? + self.quiet())
    }
}

fn since(at: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(at)
}

/// Returns `first`, doubled with each step after the first one.
fn doubled(first: Duration, steps: u32, most: Duration) -> Duration {
    let factor = 1_u32 << steps.saturating_sub(1).min(16);
    (first * factor).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the seconds at which questions start, each answered at once or not.
    fn asked(occasion: Occasion, seconds: u64, answered: bool) -> Vec<u64> {
        let start = Instant::now();
        let mut schedule = Schedule::new(Some(Duration::from_secs(30)), start);
        let mut asked = Vec::new();
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            if !schedule.start(occasion, now, 0.0) {
                continue;
            }
            asked.push(second);
            match answered {
                true => schedule.answered(occasion == Occasion::Hint, now),
                false => schedule.failed(now),
            }
        }
        asked
    }

    #[test]
    fn a_sign_that_stays_is_asked_about_less_and_less() {
        let want = [0, 10, 30, 70, 150, 310, 610, 910];
        assert_eq!(asked(Occasion::Hint, 1000, true), want);
        assert_eq!(asked(Occasion::Unknown, 100, true), [30, 60, 90]);
        assert!(asked(Occasion::Nothing, 1000, true).is_empty());
    }

    #[test]
    fn what_failed_is_asked_again_soon_and_not_too_often() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(None, start);
        assert!(!schedule.start(Occasion::Unknown, at(1000), 0.0));
        assert!(schedule.start(Occasion::Hint, at(1000), 0.0));
        schedule.failed(at(1000));
        let mut asked = Vec::new();
        for second in 1000..1060 {
            if schedule.start(Occasion::Failed, at(second), 0.0) {
                asked.push(second);
                schedule.failed(at(second));
            }
        }
        assert_eq!(asked, [1002, 1006, 1014, 1024, 1034, 1044, 1054]);
        // Even if each question is about a new sign, there are at most twelve in a minute.
        let mut count = 0;
        for second in 2000..2060 {
            schedule.progressed();
            count += u32::from(schedule.start(Occasion::Hint, at(second), 0.5));
        }
        assert_eq!(count, 12);
    }

    #[test]
    fn an_answer_silences_the_sign_until_it_grows_old_or_goes_away() {
        let start = Instant::now();
        let mut schedule = Schedule::new(None, start);
        assert_eq!(schedule.quiet_until(), None);
        assert!(schedule.start(Occasion::Hint, start, 0.0));
        schedule.answered(true, start);
        assert_eq!(schedule.quiet_until(), Some(start + FIRST_QUIET));
        assert!(!schedule.start(Occasion::Hint, start + FIRST_QUIET / 2, 0.0));
        schedule.progressed();
        assert_eq!(schedule.quiet_until(), None);
        assert!(schedule.start(Occasion::Hint, start + FIRST_QUIET / 2, 0.0));
    }
}
