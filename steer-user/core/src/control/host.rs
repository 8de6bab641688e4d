//! Properties of the machine, as the daemon reads them: the core asks the system nothing itself.

use std::time::{Duration, Instant, SystemTime};

/// Properties of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Number of possible CPUs.
    pub cpus: u32,
    /// The wall clock.
    pub clock: WallClock,
}

impl Host {
    /// A machine with one CPU whose wall clock begins with `now`: for simulations and tests.
    #[must_use]
    pub fn simulated(now: Instant) -> Self {
        Self {
            cpus: 1,
            clock: WallClock::new(now, SystemTime::UNIX_EPOCH),
        }
    }
}

/// Wall-clock times of instants, as of one reading of both clocks. The daemon reads them again after each event, so
/// that a wall clock that is set shows.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    at: Instant,
    time: SystemTime,
}

impl WallClock {
    /// A reading of both clocks.
    #[must_use]
    pub fn new(at: Instant, time: SystemTime) -> Self {
        Self { at, time }
    }

    /// The wall-clock time of an instant.
    #[must_use]
    pub fn time(&self, at: Instant) -> SystemTime {
        let later = at.saturating_duration_since(self.at);
        let earlier = self.at.saturating_duration_since(at);
        self.time
            .checked_add(later)
            .and_then(|time| time.checked_sub(earlier))
            .unwrap_or(self.time)
    }

    /// Time from an instant to a wall-clock time; zero if that has passed.
    #[must_use]
    pub fn left(&self, until: SystemTime, now: Instant) -> Duration {
        until.duration_since(self.time(now)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_and_after_the_reading_have_times() {
        let now = Instant::now() + Duration::from_secs(10);
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = WallClock::new(now, noon);
        let second = Duration::from_secs(1);
        assert_eq!(clock.time(now + second), noon + second);
        assert_eq!(clock.time(now - second), noon - second);
        assert_eq!(clock.left(noon + second * 3, now + second), second * 2);
        assert_eq!(clock.left(noon, now + second), Duration::ZERO);
    }
}
