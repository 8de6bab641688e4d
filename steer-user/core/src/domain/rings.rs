//! Nearness: rings of backends by smoothed round-trip time.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the rings; a backend beyond the last one is in ring [`BOUNDS`]`.len()`.
pub const BOUNDS: [Duration; 5] = [
    Duration::from_millis(2),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(80),
    Duration::from_millis(200),
];

/// Weight of a new sample in the smoothed round-trip time.
const ALPHA: f64 = 0.2;
/// Relative distance past a bound that the smoothed time needs before the ring changes.
const HYSTERESIS: f64 = 0.2;
/// Number of samples of which the minimum counts: busy hosts and queues on the path only add to the
/// path's own time. With fewer samples, the minimum of those available counts.
const WINDOW: usize = 8;

/// Nearness of one backend.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Nearness {
    recent: VecDeque<f64>,
    smoothed: Option<f64>,
    ring: usize,
}

impl Nearness {
    /// Records a round-trip time, and returns the ring if it changed.
    pub fn observe(&mut self, rtt: Duration) -> Option<usize> {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(rtt.as_secs_f64());
        let sample = self.recent.iter().copied().fold(f64::INFINITY, f64::min);
        let Some(before) = self.smoothed else {
            self.smoothed = Some(sample);
            self.ring = BOUNDS.iter().take_while(|b| rtt > **b).count();
            return Some(self.ring);
        };
        let smoothed = if self.recent.len() < WINDOW {
            sample
        } else {
            before + ALPHA * (sample - before)
        };
        self.smoothed = Some(smoothed);
        let mut ring = self.ring;
        while ring < BOUNDS.len() && smoothed > BOUNDS[ring].as_secs_f64() * (1.0 + HYSTERESIS) {
            ring += 1;
        }
        while ring > 0 && smoothed < BOUNDS[ring - 1].as_secs_f64() * (1.0 - HYSTERESIS) {
            ring -= 1;
        }
        (std::mem::replace(&mut self.ring, ring) != ring).then_some(ring)
    }

    /// Returns the ring, 0 being the nearest; `None` before the first sample.
    #[must_use]
    pub fn ring(&self) -> Option<usize> {
        self.smoothed.map(|_| self.ring)
    }

    /// Returns the smoothed round-trip time; `None` before the first sample.
    #[must_use]
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(nearness: &mut Nearness, micros: u64) -> Option<usize> {
        for _ in 0..60 {
            nearness.observe(Duration::from_micros(micros));
        }
        nearness.ring()
    }

    #[test]
    fn a_ring_changes_only_well_past_its_bound() {
        let mut nearness = Nearness::default();
        assert_eq!(nearness.ring(), None);
        assert_eq!(nearness.observe(Duration::from_millis(1)), Some(0));
        for (micros, ring) in [
            (2_300, 0),
            (2_500, 1),
            (1_700, 1),
            (1_500, 0),
            (300_000, 5),
            (170_000, 5),
            (150_000, 4),
            (90_000, 4),
            (500, 0),
        ] {
            assert_eq!(settle(&mut nearness, micros), Some(ring), "{micros} us");
        }
    }

    #[test]
    fn a_lone_outlier_counts_for_nothing() {
        let mut nearness = Nearness::default();
        settle(&mut nearness, 1_000);
        assert_eq!(nearness.observe(Duration::from_secs(1)), None);
        let off = nearness.smoothed().unwrap().as_secs_f64() - 0.001;
        assert!(off.abs() < 1e-9);
    }

    #[test]
    fn what_a_busy_host_adds_counts_for_nothing() {
        let mut nearness = Nearness::default();
        settle(&mut nearness, 1_000);
        for round in 0..100 {
            let rtt = if round % WINDOW == 0 { 1_000 } else { 50_000 };
            assert_eq!(nearness.observe(Duration::from_micros(rtt)), None);
        }
        let off = nearness.smoothed().unwrap().as_secs_f64() - 0.001;
        assert!(off.abs() < 1e-9);
    }

    #[test]
    fn a_slow_start_is_forgotten_by_the_first_good_sample() {
        let mut nearness = Nearness::default();
        assert_eq!(nearness.observe(Duration::from_millis(50)), Some(3));
        assert_eq!(nearness.observe(Duration::from_millis(40)), None);
        assert_eq!(nearness.observe(Duration::from_millis(1)), Some(0));
    }
}
