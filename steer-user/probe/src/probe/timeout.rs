//! Probe timeout from measured round trips (the idea of RFC 6298).

use std::time::Duration;

/// Lower bound of the timeout: a beacon on a busy machine may have to wait for a CPU.
const MIN_TIMEOUT: Duration = Duration::from_millis(150);

/// Round-trip statistics of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timeout {
    /// Smoothed round trip and its variation.
    known: Option<(Duration, Duration)>,
}

impl Timeout {
    /// Records a round trip.
    pub(super) fn observe(&mut self, rtt: Duration) {
        self.known = Some(match self.known {
            None => (rtt, rtt / 2),
            Some((smoothed, varies)) => (
                (smoothed * 7 + rtt) / 8,
                (varies * 3 + smoothed.abs_diff(rtt)) / 4,
            ),
        });
    }

    /// Returns the timeout of an answer, at most `most`.
    pub(super) fn limit(&self, most: Duration) -> Duration {
        match self.known {
            Some((smoothed, varies)) => MIN_TIMEOUT.max(smoothed * 2 + varies * 4).min(most),
            None => most,
        }
    }

    /// Returns the time after which an answer is overdue, at least `least`; `None` without
    /// measurements.
    pub(super) fn overdue(&self, least: Duration) -> Option<Duration> {
        let (smoothed, varies) = self.known?;
        Some(least.max(smoothed + varies * 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn near_backends_are_waited_for_less_and_far_ones_as_long_as_it_takes() {
        let mut near = Timeout::default();
        assert_eq!(near.limit(200 * MS), 200 * MS, "nothing is known yet");
        let mut far = near;
        for _ in 0..50 {
            near.observe(MS);
            far.observe(90 * MS);
        }
        assert_eq!(near.limit(200 * MS), MIN_TIMEOUT);
        assert_eq!(near.limit(100 * MS), 100 * MS);
        assert_eq!(near.overdue(25 * MS), Some(25 * MS));
        let far_limit = far.limit(1000 * MS);
        assert!((180 * MS..190 * MS).contains(&far_limit), "{far_limit:?}");
        assert!(far.overdue(25 * MS) >= Some(90 * MS));
    }

    #[test]
    fn round_trips_that_vary_are_waited_for_longer() {
        let mut patience = Timeout::default();
        for turn in 0..50 {
            patience.observe(if turn % 2 == 0 { 20 * MS } else { 120 * MS });
        }
        assert!(patience.limit(1000 * MS) > 250 * MS);
    }
}
