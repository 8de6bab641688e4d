//! Answers that end with their first burst, told from answers that have stopped for a while.

use std::time::{Duration, Instant};

/// Answers that must begin before the time in which a second burst is due, and as many after it.
pub const MIN_ANSWERS: u64 = 3;
/// Multiple of the peers' time to their second burst after which a backend has none.
const NO_BURST_AFTER: u32 = 4;

/// Conclusion about a backend's answers, none of which has had a second burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBursts {
    /// Too few answers, or too short a time.
    Unknown,
    /// One request after the other is answered, and each answer ends with its first burst.
    EndsAtOnce,
    /// Stop of the backend: requests wait, and no answer begins. A process that is stopped, or out of reach, cuts no
    /// answers short.
    Stopped,
}

/// Beginnings of a backend's answers since they became small.
#[derive(Clone, Copy, Debug)]
pub struct FirstBurstWatch {
    begun: u64,
    last_began: Instant,
    /// Number of answers when it first was [`MIN_ANSWERS`], and when.
    enough: Option<(u64, Instant)>,
}

impl FirstBurstWatch {
    /// Creates a watch that starts now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            begun: 0,
            last_began: now,
            enough: None,
        }
    }

    /// Records how many answers have begun since the watch started, how many requests wait for theirs, and how long the
    /// peers' second bursts usually take.
    pub fn observe(
        &mut self,
        begun: u64,
        waiting: u64,
        usual: Duration,
        now: Instant,
    ) -> FirstBursts {
        let due = usual.saturating_mul(NO_BURST_AFTER);
        if begun > self.begun {
            self.begun = begun;
            self.last_began = now;
        } else if waiting > 0 && now.saturating_duration_since(self.last_began) > due {
            return FirstBursts::Stopped;
        }
        if begun < MIN_ANSWERS {
            return FirstBursts::Unknown;
        }
        let (count, since) = *self.enough.get_or_insert((begun, now));
        let goes_on = begun >= count + MIN_ANSWERS;
        if goes_on && now.saturating_duration_since(since) > due {
            return FirstBursts::EndsAtOnce;
        }
        FirstBursts::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Duration = Duration::from_millis(50);
    const STEP: Duration = Duration::from_millis(20);

    /// Observes steps of (answers begun, requests that wait). Returns the last conclusion.
    fn observe(steps: impl IntoIterator<Item = (u64, u64)>) -> FirstBursts {
        let mut now = Instant::now();
        let mut watch = FirstBurstWatch::new(now);
        let mut last = FirstBursts::Unknown;
        for (begun, waiting) in steps {
            now += STEP;
            last = watch.observe(begun, waiting, USUAL, now);
        }
        last
    }

    #[test]
    fn answers_one_after_the_other_without_a_second_burst_end_at_once() {
        let answers = (1..=20).map(|n| (n, 0));
        assert_eq!(observe(answers), FirstBursts::EndsAtOnce);
        // However few there are.
        let slow = (1..=200).map(|n| (n / 30, 0));
        assert_eq!(observe(slow), FirstBursts::EndsAtOnce);
    }

    #[test]
    fn a_process_that_is_stopped_ends_nothing() {
        let stopped = (1..=5).chain([5; 11]);
        assert_eq!(
            observe(stopped.clone().map(|n| (n, 1))),
            FirstBursts::Stopped
        );
        assert_eq!(observe(stopped.map(|n| (n, 0))), FirstBursts::Unknown);
    }

    #[test]
    fn answers_that_have_just_begun_say_nothing() {
        let begun = (1..=8).map(|n| (n, 0));
        assert_eq!(observe(begun), FirstBursts::Unknown);
    }
}
