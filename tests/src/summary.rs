//! Summary of a load's samples.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::load::Sample;

/// Figures of a load.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Number of requests.
    pub requests: usize,
    /// Number of failed requests.
    pub failures: usize,
    /// Start of the last failed request.
    pub last_failure: Option<Instant>,
    /// Successful answers by backend.
    pub answers: BTreeMap<String, usize>,
    /// Median and 95th percentile of the time to the first byte of successful answers.
    pub first: [Duration; 2],
    /// Median and 95th percentile of the time to the last byte of successful answers.
    pub total: [Duration; 2],
    /// Longest wait of a client for the next piece of its answer, or for the first.
    pub gap: Duration,
}

impl Summary {
    /// Summarizes samples.
    pub fn from_samples<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let all: Vec<&Sample> = samples.into_iter().collect();
        let (good, bad): (Vec<&Sample>, Vec<&Sample>) =
            all.iter().partition(|sample| sample.error.is_none());
        let mut answers = BTreeMap::new();
        for sample in &good {
            *answers
                .entry(sample.backend.clone().unwrap_or_default())
                .or_default() += 1;
        }
        let first: Vec<_> = good.iter().filter_map(|sample| sample.first).collect();
        let total: Vec<_> = good.iter().map(|sample| sample.total).collect();
        Self {
            requests: all.len(),
            failures: bad.len(),
            last_failure: bad.iter().map(|sample| sample.start).max(),
            answers,
            first: [50, 95].map(|percent| percentile(&first, percent)),
            total: [50, 95].map(|percent| percentile(&total, percent)),
            gap: all
                .iter()
                .map(|sample| sample.gap.max(sample.first.unwrap_or(sample.total)))
                .max()
                .unwrap_or_default(),
        }
    }

    /// Returns a backend's share of the successful answers.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
    pub fn share(&self, backend: &str) -> f64 {
        let all: usize = self.answers.values().sum();
        let own = self.answers.get(backend).copied().unwrap_or_default();
        own as f64 / all.max(1) as f64
    }
}

/// Returns the smallest of the times that at least `percent` % of them do not exceed; zero without
/// times.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1);
    times.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Vec<_> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(10));
        assert_eq!(percentile(&times, 95), Duration::from_millis(19));
        assert_eq!(percentile(&times[..1], 95), Duration::from_millis(20));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn only_good_answers_count_towards_shares() {
        let start = Instant::now();
        let sample = |backend: &str, millis, error: Option<&str>| Sample {
            start: start + Duration::from_millis(millis),
            backend: Some(backend.to_owned()),
            first: None,
            total: Duration::from_millis(millis),
            gap: Duration::ZERO,
            error: error.map(str::to_owned),
        };
        let bad = Some("cut short");
        let samples = [
            sample("a", 1, None),
            sample("b", 2, bad),
            sample("b", 3, None),
            sample("a", 4, bad),
        ];
        let summary = Summary::from_samples(&samples);
        assert_eq!((summary.requests, summary.failures), (4, 2));
        assert_eq!(summary.last_failure, Some(samples[3].start));
        assert_eq!(summary.share("a"), 0.5);
        assert_eq!(summary.share("c"), 0.0);
        assert_eq!(summary.total, [1, 3].map(Duration::from_millis));
    }
}
