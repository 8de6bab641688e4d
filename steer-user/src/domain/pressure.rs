//! How much of the lower priorities a pool can no longer take.

use std::time::{Duration, Instant};

/// So long a pool has to be hot before the next priority is shed.
const RISE: Duration = Duration::from_secs(1);
/// So long it has to have room before one is taken again.
const FALL: Duration = Duration::from_secs(5);
/// The share of hot members at which it has room. Between this and all of them nothing changes.
const RELIEF: f64 = 0.5;

/// A pool's pressure: how many of the priorities that it serves are shed, the lowest first. The highest
/// never is.
#[derive(Clone, Debug, Default)]
pub struct Pressure {
    level: usize,
    /// Since when it has been going up or down.
    since: Option<(Way, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Pressure {
    /// How many priorities are shed.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// Takes the share of members that are hot, with how many priorities there are; returns the
    /// levels before and after if that changes it.
    pub fn observe(&mut self, hot: f64, priorities: usize, now: Instant) -> Option<(usize, usize)> {
        let before = self.level;
        self.level = before.min(priorities.saturating_sub(1));
        let way = if hot >= 1.0 && self.level + 1 < priorities {
            Some((Way::Up, RISE))
        } else if hot <= RELIEF && self.level > 0 {
            Some((Way::Down, FALL))
        } else {
            None
        };
        match (way, self.since) {
            (None, _) => self.since = None,
            (Some((way, long)), Some((same, since))) if way == same => {
                if now.saturating_duration_since(since) >= long {
                    self.level = match way {
                        Way::Up => self.level + 1,
                        Way::Down => self.level - 1,
                    };
                    self.since = Some((way, now));
                }
            }
            (Some((way, _)), _) => self.since = Some((way, now)),
        }
        (self.level != before).then_some((before, self.level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels after each second of these shares.
    fn levels(shares: &[f64], priorities: usize) -> Vec<usize> {
        let mut pressure = Pressure::default();
        let start = Instant::now();
        let second = |n: u32| start + Duration::from_secs(1) * n;
        (0..)
            .zip(shares)
            .map(|(n, share)| {
                pressure.observe(*share, priorities, second(n));
                pressure.level()
            })
            .collect()
    }

    #[test]
    fn the_lowest_priorities_go_first_and_the_highest_never() {
        assert_eq!(levels(&[1.0; 6], 3), [0, 1, 2, 2, 2, 2]);
        assert_eq!(levels(&[1.0; 3], 1), [0, 0, 0]);
        assert_eq!(levels(&[0.9; 3], 3), [0, 0, 0]);
    }

    #[test]
    fn they_come_back_slowly_and_one_hot_moment_is_not_enough() {
        let mut shares = vec![1.0, 1.0];
        shares.extend([0.5; 5]);
        assert_eq!(levels(&shares, 2), [0, 1, 1, 1, 1, 1, 1]);
        shares.push(0.0);
        assert_eq!(levels(&shares, 2).last(), Some(&0));
        assert_eq!(levels(&[1.0, 0.7, 1.0, 0.7, 1.0], 2), [0; 5]);
        // Between the bounds it stays.
        assert_eq!(
            levels(&[1.0, 1.0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6], 2).last(),
            Some(&1)
        );
    }

    #[test]
    fn priorities_that_are_no_more_are_shed_no_more() {
        let mut pressure = Pressure::default();
        let now = Instant::now();
        for second in 0..3 {
            pressure.observe(1.0, 3, now + Duration::from_secs(second));
        }
        assert_eq!(pressure.observe(1.0, 2, now), Some((2, 1)));
        assert_eq!(pressure.observe(1.0, 0, now), Some((1, 0)));
    }
}
