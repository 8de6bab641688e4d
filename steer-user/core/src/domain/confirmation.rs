//! Connections of this node's own that confirm or contradict what packets suggest.
//!
//! Their rate is bounded, so that forged packets cannot make this node flood a backend.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use steer_probe::probe::confirmation::Outcome;

/// Timeout of a connection; without an outcome by then, it counts as unanswered.
const OVERDUE: Duration = Duration::from_millis(400);
/// Pause after the first outcome; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Upper bound of the pause.
const MAX_PAUSE: Duration = Duration::from_millis(800);
/// Time without a connection after which the pause is reset.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Results of this node's connections to a backend, with times of any clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation<T = Instant> {
    /// Start of the connection in progress.
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<T>,
    /// Earliest start of the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<T>,
    /// Pause between an outcome and the next connection; doubled each time.
    #[serde(with = "humantime_serde")]
    pause: Duration,
    /// Whether the last connection was unanswered.
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
    /// Converts the times to another clock.
    #[must_use]
    pub fn on<U>(&self, clock: impl Fn(T) -> U) -> Confirmation<U> {
        Confirmation {
            begun: self.begun.map(&clock),
            next: self.next.map(&clock),
            pause: self.pause,
            unanswered: self.unanswered,
        }
    }

    /// Returns whether the last connection was unanswered.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Returns whether the passage of time alone may change the state.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.begun.is_some() || self.next.is_some()
    }
}

impl Confirmation {
    /// Returns whether another connection may start.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        self.begun.is_none() && self.next.is_none_or(|next| now >= next)
    }

    /// Records the start of a connection.
    pub fn start(&mut self, now: Instant) {
        self.begun = Some(now);
    }

    /// Records the outcome of a connection.
    pub fn end(&mut self, outcome: Outcome, now: Instant) {
        self.begun = None;
        self.unanswered = matches!(outcome, Outcome::NoAnswer | Outcome::NotTried);
        self.next = Some(now + self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }

    /// Gives up an overdue connection, and resets a pause that is long over.
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
                confirmation.start(now);
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
        confirmation.start(now);
        confirmation.expire(now + OVERDUE);
        assert!(!confirmation.is_unanswered() && !confirmation.is_ready(now + OVERDUE));
        confirmation.expire(now + OVERDUE * 2);
        assert!(confirmation.is_unanswered());
    }
}
