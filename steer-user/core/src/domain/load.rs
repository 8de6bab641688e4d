//! Utilization of a backend: smoothed for the weights, and compared with bounds for the kernel's
//! hot bit.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Full utilization of a backend, or all new flows of a table: shares are parts of this.
pub const WHOLE: u32 = 1_000_000;
/// Upper bound of a reported utilization; a backend may report more than full.
const MAX_UTILIZATION: u32 = 4 * WHOLE;

/// Half-life of the smoothed utilization while it rises.
const RISE: Duration = Duration::from_millis(700);
/// Half-life while it falls.
const FALL: Duration = Duration::from_secs(7);

/// Returns the utilization from a load report: the highest of its parts, where 1 means that a
/// resource is exhausted. `None` if the report has no part.
#[must_use]
pub fn usage(parts: impl IntoIterator<Item = Option<f64>>) -> Option<u32> {
    let finite = parts.into_iter().flatten().filter(|part| part.is_finite());
    let highest = finite.reduce(f64::max)?;
    Some((highest.max(0.0) * f64::from(WHOLE)).min(f64::from(MAX_UTILIZATION)) as u32)
}

/// A smoothed utilization that follows rises within one or two seconds and falls slowly, because a
/// backend that was busy just now is probably still busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Smoothed {
    last: Option<(u32, Instant)>,
}

impl Smoothed {
    /// Creates one with a value at a given time.
    #[must_use]
    pub fn at(value: u32, at: Instant) -> Self {
        Self {
            last: Some((value, at)),
        }
    }

    /// Records a utilization, in parts of [`WHOLE`].
    pub fn observe(&mut self, sample: u32, now: Instant) {
        let Some((value, at)) = self.last else {
            self.last = Some((sample, now));
            return;
        };
        let half = if sample > value { RISE } else { FALL };
        let halves = now.saturating_duration_since(at).as_secs_f64() / half.as_secs_f64();
        let rest = (-halves).exp2();
        let difference = f64::from(sample) - f64::from(value);
        let next = f64::from(sample) - difference * rest;
        self.last = Some((next.round() as u32, now));
    }

    /// Returns the value and the time of the last sample.
    #[must_use]
    pub fn last(&self) -> Option<(u32, Instant)> {
        self.last
    }

    /// Returns the value, unless the last sample is stale.
    #[must_use]
    pub fn fresh(&self, stale_after: Duration, now: Instant) -> Option<u32> {
        let (value, at) = self.last?;
        (now.saturating_duration_since(at) <= stale_after).then_some(value)
    }
}

/// Bounds of utilization for the hot bit, in parts of [`WHOLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotBounds {
    /// Utilization from which a backend becomes hot.
    pub above: u32,
    /// Utilization below which it is no longer hot.
    pub below: u32,
}

impl HotBounds {
    /// Returns whether a backend is hot after a report, given whether it was hot before. A missing
    /// report changes nothing.
    #[must_use]
    pub fn is_hot(&self, was: bool, sample: Option<u32>) -> bool {
        match sample {
            Some(sample) if was => sample >= self.below,
            Some(sample) => sample >= self.above,
            None => was,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_resource_is_the_use() {
        assert_eq!(usage([Some(0.2), None, Some(0.9)]), Some(900_000));
        assert_eq!(usage([None, None]), None);
        assert_eq!(usage([Some(f64::NAN)]), None);
        assert_eq!(usage([Some(-1.0)]), Some(0));
        assert_eq!(usage([Some(1e12)]), Some(MAX_UTILIZATION));
    }

    #[test]
    fn a_peak_shows_at_once_and_stays_for_a_while() {
        let start = Instant::now();
        let mut smoothed = Smoothed::default();
        assert_eq!(smoothed.fresh(RISE, start), None);
        smoothed.observe(200_000, start);
        smoothed.observe(1_000_000, start + RISE);
        assert_eq!(smoothed.last().unwrap().0, 600_000);
        smoothed.observe(0, start + RISE + RISE);
        let after = smoothed.last().unwrap().0;
        assert!((500_000..600_000).contains(&after), "{after}");
        let later = start + RISE + RISE + Duration::from_secs(4);
        assert_eq!(smoothed.fresh(Duration::from_secs(3), later), None);
        assert_eq!(smoothed.fresh(Duration::from_secs(5), later), Some(after));
    }

    #[test]
    fn a_hot_backend_stays_hot_until_well_below() {
        let bounds = HotBounds {
            above: 900_000,
            below: 750_000,
        };
        let mut hot = false;
        let mut seen = Vec::new();
        for sample in [Some(890), Some(900), None, Some(760), Some(749), Some(899)] {
            hot = bounds.is_hot(hot, sample.map(|s| s * 1000));
            seen.push(hot);
        }
        assert_eq!(seen, [false, true, true, true, false, false]);
    }
}
