//! When an engine is asked for a tiny completion.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Questions in any minute, whatever there is to ask about.
const MAX_PER_MINUTE: usize = 12;
const MINUTE: Duration = Duration::from_secs(60);
/// After an answer to a question about a sign of trouble, the same sign is not asked about for so long; then for
/// twice as long, and so on.
const FIRST_QUIET: Duration = Duration::from_secs(10);
const MAX_QUIET: Duration = Duration::from_secs(300);
/// From a question that failed to the next one; then twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY: Duration = Duration::from_secs(10);

/// Reason to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The last question failed.
    Failed,
    /// There is a sign of trouble.
    Hint,
    /// Nobody knows whether it works: it is idle, or says too little.
    Unknown,
    /// Nothing: it makes progress, has work that it gets done, sleeps, or says itself that it does not serve.
    Nothing,
}

/// The questions so far, and when the next one is due.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Time between questions to an engine of which nothing is known; never without it.
    idle_every: Option<Duration>,
    begun: Instant,
    recent: VecDeque<Instant>,
    answered: Option<Instant>,
    /// Answers in a row while the sign of trouble stayed.
    quiet_steps: u32,
    failed: Option<Instant>,
    failures: u32,
    /// From 0.9 to 1, drawn anew for each question, so that beacons do not ask in step.
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

    /// Returns whether a question is due, and counts it if it is.
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

    /// Takes an answer. With `about_hint` the sign of trouble was answered, and counts for nothing for a while.
    pub(super) fn answered(&mut self, about_hint: bool, now: Instant) {
        self.answered = Some(now);
        (self.failed, self.failures) = (None, 0);
        if about_hint {
            self.quiet_steps += 1;
        }
    }

    /// Takes a failure.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failed = Some(now);
        self.failures += 1;
    }

    /// The engine makes progress: the next sign of trouble is a new one.
    pub(super) fn progressed(&mut self) {
        self.quiet_steps = 0;
        (self.failed, self.failures) = (None, 0);
    }

    /// Returns until when a sign of trouble counts for nothing.
    pub(super) fn quiet_until(&self) -> Option<Instant> {
        let answered = self.answered.filter(|_| self.quiet_steps > 0);
        Some(answered? + self.quiet())
    }
}

fn since(at: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(at)
}

/// `first`, doubled with each step after the first one.
fn doubled(first: Duration, steps: u32, most: Duration) -> Duration {
    let factor = 1_u32 << steps.saturating_sub(1).min(16);
    (first * factor).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seconds at which questions start, each answered or not at once.
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
        // Even where every one is about a new sign there are no more than a dozen in a minute.
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
