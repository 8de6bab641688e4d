//! Load shedding: the number of low priorities that a pool rejects while it is overloaded.

use std::time::{Duration, Instant};

/// Time for which a pool must be hot before the next priority is shed.
const RISE: Duration = Duration::from_secs(1);
/// Time for which it must have room before a priority is accepted again.
const FALL: Duration = Duration::from_secs(5);
/// Share of hot members up to which a pool has room. Between this and all members nothing changes.
const RELIEF: f64 = 0.5;

/// Pressure of a pool: the number of its priorities that are shed, lowest first. The highest one is
/// never shed.
#[derive(Clone, Debug, Default)]
pub struct Pressure {
    level: usize,
    /// Start and direction of the current rise or fall.
    since: Option<(Direction, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Pressure {
    /// Returns the number of shed priorities.
    #[must_use]
    pub fn level(&self) -> usize {
        self.level
    }

    /// Records the share of hot members and the number of priorities; returns the levels before and
    /// after a change.
    pub fn observe(&mut self, hot: f64, priorities: usize, now: Instant) -> Option<(usize, usize)> {
        let before = self.level;
        self.level = before.min(priorities.saturating_sub(1));
        let way = if hot >= 1.0 && self.level + 1 < priorities {
            Some((Direction::Up, RISE))
        } else if hot <= RELIEF && self.level > 0 {
            Some((Direction::Down, FALL))
        } else {
            None
        };
        match (way, self.since) {
            (None, _) => self.since = None,
            (Some((way, long)), Some((same, since))) if way == same => {
                if now.saturating_duration_since(since) >= long {
                    self.level = match way {
                        Direction::Up => self.level + 1,
                        Direction::Down => self.level - 1,
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

    /// Returns the level after each second of these shares.
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
        // Between the bounds the level stays.
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
