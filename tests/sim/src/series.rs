//! Scenarios under policies, with several seeds, on several CPUs.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{Outcome, Scenario, policy::Maker, run, statistics::Estimate};

/// Outcomes of a policy in a scenario, by seed.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Outcomes in the order of the seeds.
    pub outcomes: Vec<Outcome>,
}

impl Series {
    /// Returns a figure of each outcome.
    pub fn samples(&self, figure: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        self.outcomes.iter().map(figure).collect()
    }

    /// Estimates the mean of a figure.
    pub fn estimate(&self, figure: impl Fn(&Outcome) -> f64) -> Estimate {
        Estimate::of(&self.samples(figure))
    }

    /// Returns the 99th percentile of the time to the first token of each seed, in milliseconds.
    #[must_use]
    pub fn p99_ms(&self) -> Vec<f64> {
        self.samples(|outcome| outcome.first_ms[2])
    }
}

/// Runs all scenarios under all policies with all seeds. Returns the series by scenario and policy.
#[must_use]
pub fn run_all(
    scenarios: &[Scenario],
    makers: &[Maker],
    seeds: &[u64],
    threads: usize,
) -> Vec<Vec<Series>> {
    let mut jobs = Vec::new();
    for scenario in 0..scenarios.len() {
        for maker in 0..makers.len() {
            jobs.extend((0..seeds.len()).map(|seed| (scenario, maker, seed)));
        }
    }
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![Outcome::default(); jobs.len()]);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((scenario, maker, seed)) = jobs.get(index).copied() else {
                        break;
                    };
                    let scenario = Scenario {
                        seed: seeds[seed],
                        ..scenarios[scenario].clone()
                    };
                    let outcome = run(&scenario, &makers[maker]);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner)[index] = outcome;
                }
            });
        }
    });
    let outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let series = outcomes.chunks(seeds.len()).map(|chunk| Series {
        outcomes: chunk.to_vec(),
    });
    let series: Vec<Series> = series.collect();
    series
        .chunks(makers.len())
        .map(<[Series]>::to_vec)
        .collect()
}
