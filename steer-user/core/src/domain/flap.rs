//! Flap damping: a backend that goes down repeatedly stays out until it has been stable for a while
//! (the idea of RFC 2439).

use std::time::{Duration, Instant};

/// Penalty of each transition to down.
const PENALTY_PER_FAILURE: f64 = 1_000.0;
/// Penalty from which the backend is suppressed: three transitions in quick succession.
const SUPPRESS_THRESHOLD: f64 = 2_500.0;
/// Penalty below which it is reused.
const REUSE_THRESHOLD: f64 = 1_000.0;
/// Upper bound of the penalty, which limits suppression to two half-lives.
const MAX_PENALTY: f64 = 4_000.0;

/// The penalty of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Damping {
    /// The penalty, and the time at which it was computed.
    penalty: Option<(f64, Instant)>,
    suppressed: bool,
}

impl Damping {
    /// Creates the state with a penalty at a given time.
    #[must_use]
    pub fn with(penalty: f64, at: Instant, suppressed: bool) -> Self {
        Self {
            penalty: Some((penalty, at)),
            suppressed,
        }
    }

    /// Returns the penalty and its time; `None` before the first transition.
    #[must_use]
    pub fn penalty(&self) -> Option<(f64, Instant)> {
        self.penalty
    }

    /// Returns whether the backend is suppressed, whatever its probes say.
    #[must_use]
    pub fn suppressed(&self) -> bool {
        self.suppressed
    }

    /// Records that the backend went down. A half-life of zero disables damping.
    pub fn record_failure(&mut self, half_life: Duration, now: Instant) -> Option<bool> {
        if half_life.is_zero() {
            return self.poll(half_life, now);
        }
        let penalty = (self.decayed(half_life, now) + PENALTY_PER_FAILURE).min(MAX_PENALTY);
        self.penalty = Some((penalty, now));
        self.poll(half_life, now)
    }

    /// Lets the penalty decay, and returns whether the backend is suppressed if that changed.
    pub fn poll(&mut self, half_life: Duration, now: Instant) -> Option<bool> {
        let penalty = self.decayed(half_life, now);
        let suppressed = if self.suppressed {
            penalty > REUSE_THRESHOLD
        } else {
            penalty >= SUPPRESS_THRESHOLD
        };
        (std::mem::replace(&mut self.suppressed, suppressed) != suppressed).then_some(suppressed)
    }

    fn decayed(&self, half_life: Duration, now: Instant) -> f64 {
        let Some((penalty, at)) = self.penalty else {
            return 0.0;
        };
        if half_life.is_zero() {
            return 0.0;
        }
        let passed = now.saturating_duration_since(at).as_secs_f64();
        penalty * (-passed / half_life.as_secs_f64()).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Duration = Duration::from_secs(10);

    #[test]
    fn one_death_is_forgiven_and_flapping_is_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut damping = Damping::default();
        assert_eq!(damping.record_failure(HALF, at(0)), None);
        assert_eq!(damping.record_failure(HALF, at(2)), None);
        assert_eq!(damping.record_failure(HALF, at(4)), Some(true));
        assert!(damping.suppressed());
        // 2629 decays to 1000 in 13.9 s.
        assert_eq!(damping.poll(HALF, at(17)), None);
        assert_eq!(damping.poll(HALF, at(18)), Some(false));
        assert_eq!(damping.record_failure(HALF, at(19)), None);
    }

    #[test]
    fn nobody_is_left_out_for_longer_than_two_half_lives_after_the_last_death() {
        let start = Instant::now();
        let mut damping = Damping::default();
        let mut now = start;
        for _ in 0..100 {
            now += Duration::from_secs(1);
            damping.record_failure(HALF, now);
        }
        assert_eq!(damping.poll(HALF, now + 2 * HALF), Some(false));
    }

    #[test]
    fn deaths_that_are_far_apart_add_up_to_nothing() {
        let start = Instant::now();
        let mut damping = Damping::default();
        for death in 0..50 {
            assert_eq!(damping.record_failure(HALF, start + death * HALF), None);
        }
    }

    #[test]
    fn without_a_half_life_there_is_no_damping() {
        let now = Instant::now();
        let mut damping = Damping::default();
        for _ in 0..10 {
            assert_eq!(damping.record_failure(Duration::ZERO, now), None);
        }
    }
}
