//! Backoff of exports.

use std::time::Duration;

use super::outcome::{Accepted, Failure};

/// Upper bound of the pause after a failure, or the interval if that is longer.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Upper bound of a pause that the collector asks for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Schedule of exports: by the interval, and less often after failures.
#[derive(Debug)]
pub(super) struct Backoff {
    interval: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            failures: 0,
        }
    }

    /// Returns the pause after an outcome that took some time. `chance`, from 0 to 1, keeps nodes
    /// that failed together from retrying together.
    pub(super) fn after(
        &mut self,
        outcome: &Result<Accepted, Failure>,
        took: Duration,
        chance: f64,
    ) -> Duration {
        let Err(failure) = outcome else {
            self.failures = 0;
            return self.interval.saturating_sub(took);
        };
        let doubled = self.interval.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let longest = MAX_BACKOFF.max(self.interval);
        let pause = doubled
            .min(longest)
            .mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
        match failure.retry_after() {
            Some(wanted) => pause.max(wanted.min(MAX_RETRY_AFTER)),
            None => pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed(retry_after: Option<Duration>) -> Result<Accepted, Failure> {
        Err(Failure::Status {
            code: 503,
            retry_after,
        })
    }

    #[test]
    fn what_works_goes_on_by_the_interval() {
        let mut pace = Backoff::new(15 * SECOND);
        let done = Ok(Accepted::Whole);
        assert_eq!(pace.after(&done, 2 * SECOND, 0.3), 13 * SECOND);
        assert_eq!(pace.after(&done, 20 * SECOND, 0.3), Duration::ZERO);
    }

    #[test]
    fn what_fails_is_tried_less_and_less_often_but_never_given_up() {
        let mut pace = Backoff::new(15 * SECOND);
        let pauses: Vec<_> = (0..40)
            .map(|_| pace.after(&failed(None), SECOND, 0.5).as_secs())
            .collect();
        assert_eq!(pauses[..4], [15, 30, 60, 60]);
        assert_eq!(pauses[39], 60);
        let spread = [0.0, 1.0].map(|chance| pace.after(&failed(None), SECOND, chance).as_secs());
        assert_eq!(spread, [45, 75]);
        pace.after(&Ok(Accepted::Whole), SECOND, 0.5);
        assert_eq!(pace.after(&failed(None), SECOND, 0.5), 15 * SECOND);
    }

    #[test]
    fn a_collector_may_ask_for_more_time_but_not_for_ever() {
        let mut pace = Backoff::new(15 * SECOND);
        for (wanted, pause) in [(100, 100), (86_400, 600), (0, 60)] {
            let outcome = failed(Some(wanted * SECOND));
            assert_eq!(
                pace.after(&outcome, SECOND, 0.5),
                pause * SECOND,
                "{wanted}"
            );
        }
        let mut slow = Backoff::new(300 * SECOND);
        assert_eq!(slow.after(&failed(None), SECOND, 0.5), 300 * SECOND);
    }
}
