//! Connections of this node's own, which confirm or contradict what packets look like.
//!
//! They are tried at a bounded rate, so that whoever forges packets cannot have a backend flooded.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use steer_probe::probe::confirmation::Outcome;

/// Longest wait for an outcome; without one, the connection counts as not answered.
const OVERDUE: Duration = Duration::from_millis(400);
/// Time from an outcome to the next try, which doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest such time.
const MAX_PAUSE: Duration = Duration::from_millis(800);
/// After so long without a try the pause is the first again.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// What is known of a backend by such connections, with times of any clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation<T = Instant> {
    /// When the one began that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<T>,
    /// When the next one may begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<T>,
    /// Time from the last one's outcome to the next, doubled each time.
    #[serde(with = "humantime_serde")]
    pause: Duration,
    /// Whether the last one was not answered.
    unanswered: bool,
}

impl<T> Default for Confirmation<T> {
    fn default() -> Self {
        Self {
            begun: None,
            next: None,
            pause: FIRST_PAUSE,
            unanswered: false,
        }
    }
}

impl<T: Copy> Confirmation<T> {
    /// The same with times of another clock.
    #[must_use]
    pub fn on<U>(&self, clock: impl Fn(T) -> U) -> Confirmation<U> {
        Confirmation {
            begun: self.begun.map(&clock),
            next: self.next.map(&clock),
            pause: self.pause,
            unanswered: self.unanswered,
        }
    }

    /// Whether the last one was not answered.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Whether time alone may change something.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.begun.is_some() || self.next.is_some()
    }
}

impl Confirmation {
    /// Whether another one may begin.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        self.begun.is_none() && self.next.is_none_or(|next| now >= next)
    }

    /// Notes that one begins.
    pub fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
    }

    /// Takes an outcome.
    pub fn end(&mut self, outcome: Outcome, now: Instant) {
        self.begun = None;
        self.unanswered = matches!(outcome, Outcome::NoAnswer | Outcome::NotTried);
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }

    /// Gives up one that is overdue, and forgets pauses that are long over.
    pub fn expire(&mut self, now: Instant) {
        let passed = |at: Instant| now.saturating_duration_since(at);
        if self.begun.is_some_and(|begun| passed(begun) > OVERDUE) {
            self.end(Outcome::NoAnswer, now);
        }
        if self.next.is_some_and(|next| passed(next) > FORGOTTEN) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_bounded_whatever_comes() {
        let mut now = Instant::now();
        let mut confirmation = Confirmation::default();
        let mut tried = 0;
        for _ in 0..1000 {
            now += Duration::from_millis(10);
            confirmation.expire(now);
            if confirmation.is_ready(now) {
                confirmation.begin(now);
                confirmation.end(Outcome::Connected, now);
                tried += 1;
            }
        }
        assert!((12..=18).contains(&tried), "{tried} in ten seconds");
        now += FORGOTTEN + MAX_PAUSE;
        confirmation.expire(now);
        assert!(!confirmation.is_waiting());
    }

    #[test]
    fn one_without_an_outcome_counts_as_not_answered() {
        let now = Instant::now();
        let mut confirmation = Confirmation::default();
        confirmation.begin(now);
        confirmation.expire(now + OVERDUE);
        assert!(!confirmation.is_unanswered() && !confirmation.is_ready(now + OVERDUE));
        confirmation.expire(now + OVERDUE * 2);
        assert!(confirmation.is_unanswered());
    }
}
