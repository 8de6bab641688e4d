//! The state machine that turns probe results into the health of a backend.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Health of a backend by its probes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Too few results yet.
    #[default]
    Unknown,
    /// The backend answers.
    Up,
    /// The backend does not answer.
    Down,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// A change of a backend's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// State before.
    pub from: State,
    /// State after.
    pub to: State,
    /// Time of the change.
    pub at: Instant,
}

/// State machine of a backend: `fall` consecutive failures take it down, `rise` consecutive
/// successes bring it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    rise: u32,
    fall: u32,
    state: State,
    /// Last result, and the number of consecutive results like it.
    streak: (bool, u32),
    #[serde(skip)]
    since: Option<Instant>,
}

impl Health {
    /// Creates the state machine of a backend without results. A `rise` or `fall` of 0 counts as 1.
    #[must_use]
    pub fn new(rise: u32, fall: u32) -> Self {
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            state: State::Unknown,
            streak: (false, 0),
            since: None,
        }
    }

    /// Returns whether the thresholds are these.
    #[must_use]
    pub fn has_thresholds(&self, rise: u32, fall: u32) -> bool {
        (self.rise, self.fall) == (rise.max(1), fall.max(1))
    }

    /// Replaces the thresholds and keeps the results so far.
    pub fn set_thresholds(&mut self, rise: u32, fall: u32) {
        self.rise = rise.max(1);
        self.fall = fall.max(1);
    }

    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the time of the last change; `None` while the state is unknown.
    #[must_use]
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Records a probe result, and returns the change of state that it caused.
    pub fn observe(&mut self, ok: bool, now: Instant) -> Option<Transition> {
        let length = if self.streak.0 == ok {
            self.streak.1
        } else {
            0
        };
        self.streak = (ok, length.saturating_add(1));
        let (to, needed) = if ok {
            (State::Up, self.rise)
        } else {
            (State::Down, self.fall)
        };
        if self.state == to || self.streak.1 < needed {
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.since = Some(now);
        Some(Transition { from, to, at: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rise: u32, fall: u32, results: &str) -> String {
        let now = Instant::now();
        let mut health = Health::new(rise, fall);
        let step = |c| match health.observe(c == '+', now).map(|t| t.to) {
            None => '.',
            Some(State::Up) => 'U',
            Some(State::Down) => 'D',
            Some(State::Unknown) => '?',
        };
        results.chars().map(step).collect()
    }

    #[test]
    fn results_in_a_row_change_the_state() {
        for (rise, fall, results, want) in [
            (2, 2, "+", "."),
            (2, 2, "++", ".U"),
            (2, 2, "-+-+", "...."),
            (2, 2, "--", ".D"),
            (2, 2, "+++-+-+--", ".U......D"),
            (2, 2, "--+-++", ".D...U"),
            (3, 1, "++-+++", "..D..U"),
            (1, 3, "+--+---", "U.....D"),
            (0, 0, "-+-", "DUD"),
        ] {
            assert_eq!(run(rise, fall, results), want, "{rise} {fall} {results}");
        }
    }

    #[test]
    fn other_thresholds_count_from_the_next_result() {
        let now = Instant::now();
        let mut health = Health::new(2, 3);
        for ok in [true, true, false] {
            health.observe(ok, now);
        }
        health.set_thresholds(2, 2);
        assert_eq!(health.state(), State::Up);
        assert_eq!(health.observe(false, now).map(|t| t.to), Some(State::Down));
    }

    #[test]
    fn a_transition_carries_its_time() {
        let now = Instant::now();
        let mut health = Health::new(1, 1);
        assert_eq!(health.since(), None);
        let transition = health.observe(true, now);
        let want = Transition {
            from: State::Unknown,
            to: State::Up,
            at: now,
        };
        assert_eq!(transition, Some(want));
        assert_eq!(health.since(), Some(now));
        assert_eq!(health.state(), State::Up);
    }
}
