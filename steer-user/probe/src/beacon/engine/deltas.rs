//! Recent rates and quantiles, from differences of an engine's counters.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{histogram::Histogram, signals::EngineSignals};
use crate::probe::Load;

/// Length of the window.
const LATENCY_WINDOW: Duration = Duration::from_secs(10);

/// Readings in the window.
#[derive(Debug, Default)]
pub(super) struct CounterDeltas {
    readings: VecDeque<(Instant, EngineSignals)>,
    /// Number of restarts of the engine.
    restarts: u32,
}

impl CounterDeltas {
    /// Returns how often a counter decreased, which happens only at a restart of the engine.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Records a reading, and returns the load and the 99th percentile of the time to the first
    /// token in seconds. Rates and quantiles cover the samples between two readings of the same run
    /// of the engine; without samples there are none.
    pub(super) fn load(&mut self, now: Instant, reading: EngineSignals) -> (Load, Option<f64>) {
        let mut slowest = None;
        if let Some((_, last)) = self.readings.back()
            && restarted(last, &reading)
        {
            self.readings.clear();
            self.restarts = self.restarts.wrapping_add(1);
        }
        // One reading older than the window stays, so that the window is covered.
        while self.readings.len() > 1
            && now.saturating_duration_since(self.readings[1].0) >= LATENCY_WINDOW
        {
            self.readings.pop_front();
        }
        let mut load = Load {
            running: reading.running,
            waiting: reading.waiting,
            in_flight: reading.in_flight(),
            capacity: reading.capacity.filter(|capacity| *capacity > 0.0),
            kv_use: reading.kv_use,
            ..Load::default()
        };
        if let Some((then, first)) = self.readings.front() {
            let seconds = now.saturating_duration_since(*then).as_secs_f64();
            let rate = |new: Option<f64>, old: Option<f64>| {
                let grown = new? - old?;
                (seconds > 0.0).then(|| grown / seconds)
            };
            load.tokens_per_second = rate(reading.tokens, first.tokens);
            load.prompt_tokens_per_second = rate(reading.prompt_tokens, first.prompt_tokens);
            load.preemptions_per_second = rate(reading.preemptions, first.preemptions);
            if let Some(late) = recent_latency(&reading.first_token, &first.first_token) {
                slowest = late.quantile(0.99).or_else(|| late.mean());
                load.first_token_p50 = late.quantile(0.5);
                load.first_token_p95 = late.quantile(0.95);
                load.first_token_mean = late.mean();
            }
            if let Some(late) = recent_latency(&reading.inter_token, &first.inter_token) {
                load.inter_token_p50 = late.quantile(0.5);
                load.inter_token_p95 = late.quantile(0.95);
                load.inter_token_mean = late.mean();
            }
        }
        self.readings.push_back((now, reading));
        (load, slowest)
    }
}

/// Returns whether a counter decreased, which happens only at a restart of the engine.
fn restarted(old: &EngineSignals, new: &EngineSignals) -> bool {
    let less =
        |old: Option<f64>, new: Option<f64>| matches!((old, new), (Some(o), Some(n)) if n < o);
    let fewer = |old: &Option<Histogram>, new: &Option<Histogram>| match (old, new) {
        (Some(old), Some(new)) => histogram_delta(new, old).is_none(),
        _ => false,
    };
    less(old.tokens, new.tokens)
        || less(old.prompt_tokens, new.prompt_tokens)
        || less(old.preemptions, new.preemptions)
        || fewer(&old.first_token, &new.first_token)
        || fewer(&old.inter_token, &new.inter_token)
}

fn recent_latency(new: &Option<Histogram>, old: &Option<Histogram>) -> Option<Histogram> {
    histogram_delta(new.as_ref()?, old.as_ref()?)
}

/// Returns the samples since `old`; `None` if the two are of different runs.
fn histogram_delta(new: &Histogram, old: &Histogram) -> Option<Histogram> {
    let same = new.buckets.len() == old.buckets.len();
    let mut buckets = Vec::with_capacity(new.buckets.len());
    for (new, old) in new.buckets.iter().zip(&old.buckets) {
        if new.0 != old.0 || new.1 < old.1 {
            return None;
        }
        buckets.push((new.0, new.1 - old.1));
    }
    (same && new.count >= old.count && new.sum >= old.sum).then_some(Histogram {
        buckets,
        sum: new.sum - old.sum,
        count: new.count - old.count,
    })
}

impl Histogram {
    /// Returns the mean of the samples, if there are any.
    #[must_use]
    pub(super) fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }

    /// Returns a quantile like Prometheus' `histogram_quantile`: linear within a bucket, and for
    /// the last bucket its lower bound.
    #[must_use]
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.buckets.last()?.1;
        if total <= 0.0 {
            return None;
        }
        let rank = share * total;
        let index = self.buckets.iter().position(|(_, n)| *n >= rank)?;
        let (bound, up_to) = self.buckets[index];
        let (lower, below) = match index {
            0 => (0.0, 0.0),
            _ => self.buckets[index - 1],
        };
        if bound.is_infinite() || up_to <= below {
            return Some(lower);
        }
        Some(lower + (bound - lower) * (rank - below) / (up_to - below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: [f64; 3], sum: f64) -> Option<Histogram> {
        let bounds = [0.1, 1.0, f64::INFINITY];
        Some(Histogram {
            buckets: bounds.into_iter().zip(counts).collect(),
            sum,
            count: counts[2],
        })
    }

    fn reading(tokens: f64, first_token: Option<Histogram>) -> EngineSignals {
        EngineSignals {
            running: Some(1.0),
            tokens: Some(tokens),
            first_token,
            ..EngineSignals::default()
        }
    }

    #[test]
    fn rates_and_quantiles_are_of_the_window() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut window = CounterDeltas::default();
        let (load, _) = window.load(
            at(0),
            reading(1000.0, histogram([90.0, 100.0, 100.0], 50.0)),
        );
        assert_eq!(load.running, Some(1.0));
        assert_eq!(
            load.tokens_per_second, None,
            "there is nothing to compare with"
        );
        assert_eq!(load.first_token_p50, None);

        let (load, _) = window.load(
            at(2),
            reading(1100.0, histogram([92.0, 110.0, 110.0], 58.0)),
        );
        assert_eq!(load.tokens_per_second, Some(50.0));
        // Two samples up to 0.1 and eight from there to 1; the fifth is three eighths into those.
        let p50 = load.first_token_p50.unwrap();
        assert!((p50 - (0.1 + 0.9 * 3.0 / 8.0)).abs() < 1e-9, "{p50}");
        assert_eq!(load.first_token_mean, Some(0.8));

        // Samples older than the window no longer count.
        for seconds in [5, 11, 13, 22] {
            window.load(
                at(seconds),
                reading(1100.0, histogram([92.0, 110.0, 110.0], 58.0)),
            );
        }
        let (load, _) = window.load(
            at(24),
            reading(1100.0, histogram([92.0, 110.0, 110.0], 58.0)),
        );
        assert_eq!(load.tokens_per_second, Some(0.0));
        assert_eq!(load.first_token_p50, None, "no request, no time");
        assert_eq!(load.first_token_mean, None);
    }

    #[test]
    fn a_restart_begins_anew() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut window = CounterDeltas::default();
        window.load(at(0), reading(1000.0, histogram([1.0, 2.0, 3.0], 9.0)));
        window.load(at(1), reading(1100.0, histogram([1.0, 2.0, 4.0], 10.0)));
        let (load, _) = window.load(at(2), reading(5.0, histogram([0.0, 0.0, 1.0], 1.0)));
        assert_eq!(load.tokens_per_second, None);
        assert_eq!(load.first_token_p95, None);
        let (load, _) = window.load(at(3), reading(15.0, histogram([0.0, 0.0, 2.0], 3.0)));
        assert_eq!(load.tokens_per_second, Some(10.0));
        assert_eq!(
            load.first_token_p95,
            Some(1.0),
            "the last bucket has no end"
        );
        assert_eq!(load.first_token_mean, Some(2.0));
    }

    #[test]
    fn sums_without_buckets_have_a_mean() {
        let only = |count, sum| {
            Some(Histogram {
                buckets: Vec::new(),
                sum,
                count,
            })
        };
        let start = Instant::now();
        let mut window = CounterDeltas::default();
        window.load(start, reading(1.0, only(1.0, 1.0)));
        let (load, _) = window.load(start + LATENCY_WINDOW, reading(1.0, only(3.0, 2.0)));
        assert_eq!(load.first_token_mean, Some(0.5));
        assert_eq!(load.first_token_p50, None);
    }
}
