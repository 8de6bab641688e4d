//! The endpoint picker of the Gateway API Inference Extension and of llm-d.

use std::{collections::HashMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Ask, End, Policy, Probed, Site, health::View};
use crate::fleet::Report;

/// Weights of the queue, KV cache and prefix scorers, which are the defaults of llm-d's charts.
const WEIGHTS: [f64; 3] = [2.0, 2.0, 3.0];
/// Maximum number of sessions that the prefix index has for a server.
const MAX_SESSIONS: usize = 2000;

/// Sum of weighted scores, of which the highest wins: the queue score is relative to the shortest and longest queue, the
/// KV score is the free part of the cache, and the prefix score is the part of the prompt that was sent there before.
/// Metrics come from the engines without a beacon's delay. The nearest locality comes first, as in Envoy, which calls
/// the picker.
#[derive(Debug)]
pub struct InferenceScorer {
    view: View,
    random: StdRng,
    reports: Vec<Report>,
    /// Tokens of each session that each server has seen.
    prefixes: Vec<HashMap<u64, u32>>,
}

impl InferenceScorer {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
            reports: vec![Report::default(); site.servers.len()],
            prefixes: vec![HashMap::new(); site.servers.len()],
        }
    }

    fn scores(&self, ask: &Ask<'_>, usable: &[usize]) -> Vec<f64> {
        let queue = |server: &usize| self.reports[*server].waiting;
        let least = usable.iter().map(queue).min().unwrap_or(0);
        let most = usable.iter().map(queue).max().unwrap_or(0);
        let score = |server: &usize| {
            let short = if most == least {
                1.0
            } else {
                f64::from(most - queue(server)) / f64::from(most - least)
            };
            let known = self.prefixes[*server].get(&ask.job.session).copied();
            let known = known.unwrap_or(0).min(ask.job.history);
            let prefix = f64::from(known) / f64::from(ask.job.prompt.max(1));
            let parts = [short, 1.0 - self.reports[*server].kv_use, prefix];
            WEIGHTS.iter().zip(parts).map(|(w, part)| w * part).sum()
        };
        usable.iter().map(score).collect()
    }
}

impl Policy for InferenceScorer {
    fn probed(&mut self, server: usize, probed: &Probed, _now: Duration) {
        self.view.probed(server, probed);
        if let Probed::Answered { direct, .. } = probed {
            self.reports[server] = *direct;
        }
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let draw = self.random.random();
        let usable = self.view.by_priority(ask, now, draw);
        let scores = self.scores(ask, &usable);
        let best = scores.iter().copied().fold(f64::MIN, f64::max);
        // The picker shuffles, so that equal scores do not all go to the first one.
        let equal: Vec<usize> = (0..usable.len()).filter(|i| scores[*i] >= best).collect();
        let index = self.random.random_range(0..equal.len().max(1));
        let server = usable[*equal.get(index)?];
        self.view.start(server);
        if ask.job.session != 0 {
            let prefixes = &mut self.prefixes[server];
            if prefixes.len() >= MAX_SESSIONS {
                prefixes.clear();
            }
            prefixes.insert(ask.job.session, ask.job.prompt);
        }
        Some(server)
    }

    fn ended(&mut self, server: usize, end: End, _took: Duration, now: Duration) {
        self.view.end(server);
        self.view.result(server, end == End::Done, now);
    }
}
