//! Prequal: "Load is not what you should balance" (NSDI 2024).

use std::{collections::VecDeque, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{Ask, End, Policy, Probed, Site, health::View};

/// Probes in the pool (section 4: 16).
const POOL: usize = 16;
/// Age from which a probe is removed (section 4: 1 s).
const MAX_AGE: Duration = Duration::from_secs(1);
/// Quantile of requests in flight from which a server is hot (section 5: 2^-0.25).
const HOT: f64 = 0.84;
/// The quantile at which all servers are hot: the paper's control by requests in flight alone.
const ALL_HOT: f64 = 0.0;
/// Number of probes of which the quantile is taken.
const HISTORY: usize = 128;
/// Uses of a probe, after which it is removed.
const MAX_USES: u32 = 3;

#[derive(Clone, Copy, Debug)]
struct Probe {
    server: usize,
    in_flight: f64,
    latency: Duration,
    at: Duration,
    uses: u32,
}

/// The rule of hot and cold: of the probes in the pool those above a quantile of requests in flight are hot. The cold
/// one with the lowest latency wins; if all are hot, the one with the fewest requests in flight.
///
/// The latency is the server's estimate and the round trip, so nearer servers win while they are cold. Requests in flight
/// are relative to capacity. A use raises a probe's requests in flight, as in the paper. Every use removes one more
/// probe, in turns the oldest and the worst.
#[derive(Debug)]
pub struct Prequal {
    view: View,
    random: StdRng,
    pool: VecDeque<Probe>,
    history: VecDeque<f64>,
    removes_worst: bool,
    quantile: f64,
}

impl Prequal {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
            pool: VecDeque::new(),
            history: VecDeque::new(),
            removes_worst: false,
            quantile: HOT,
        }
    }

    /// Creates the policy for a site, by requests in flight only: the quantile of 0 in the paper, under which all servers
    /// are hot.
    #[must_use]
    pub fn by_in_flight(site: &Site, seed: u64) -> Self {
        Self {
            quantile: ALL_HOT,
            ..Self::new(site, seed)
        }
    }

    fn threshold(&self) -> f64 {
        if self.quantile <= ALL_HOT {
            return -1.0;
        }
        let mut all: Vec<f64> = self.history.iter().copied().collect();
        all.sort_unstable_by(f64::total_cmp);
        let index = (all.len() as f64 * self.quantile) as usize;
        all.get(index).copied().unwrap_or(f64::MAX)
    }

    /// Orders probes: cold ones by latency, then hot ones by requests in flight.
    fn rank(probe: &Probe, threshold: f64) -> (bool, f64) {
        let hot = probe.in_flight > threshold;
        let by = if hot {
            probe.in_flight
        } else {
            probe.latency.as_secs_f64()
        };
        (hot, by)
    }

    fn best(&self, usable: &[usize], threshold: f64) -> Option<usize> {
        let candidates = self.pool.iter().enumerate();
        let candidates = candidates.filter(|(_, probe)| usable.contains(&probe.server));
        let ranked = candidates.map(|(index, probe)| (Self::rank(probe, threshold), index));
        let order = |a: &((bool, f64), usize), b: &((bool, f64), usize)| {
            a.0.0.cmp(&b.0.0).then(a.0.1.total_cmp(&b.0.1))
        };
        ranked.min_by(order).map(|(_, index)| index)
    }

    /// Removes the oldest or the worst probe.
    fn remove_one(&mut self, threshold: f64) {
        self.removes_worst = !self.removes_worst;
        // A small pool is worth more than its freshness.
        if self.pool.len() <= POOL / 2 {
            return;
        }
        if !self.removes_worst {
            self.pool.pop_front();
            return;
        }
        let ranked = self.pool.iter().map(|probe| Self::rank(probe, threshold));
        let order = |a: &(bool, f64), b: &(bool, f64)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
        let worst = ranked.enumerate().max_by(|a, b| order(&a.1, &b.1));
        if let Some((index, _)) = worst {
            self.pool.remove(index);
        }
    }
}

impl Policy for Prequal {
    fn probed(&mut self, server: usize, probed: &Probed, now: Duration) {
        self.view.probed(server, probed);
        let Probed::Answered {
            rtt,
            direct,
            estimate,
            ..
        } = probed
        else {
            return;
        };
        let in_flight = f64::from(direct.running + direct.waiting) / self.view.capacity[server];
        self.pool.retain(|probe| probe.server != server);
        if self.pool.len() == POOL {
            self.pool.pop_front();
        }
        self.pool.push_back(Probe {
            server,
            in_flight,
            latency: *estimate + *rtt,
            at: now,
            uses: 0,
        });
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(in_flight);
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let usable = self.view.usable(ask, now);
        self.pool.retain(|probe| probe.at + MAX_AGE > now);
        let threshold = self.threshold();
        let Some(index) = self.best(&usable, threshold) else {
            // Without a probe: a random server, the nearest ones first.
            let draw = self.random.random();
            let near = self.view.by_priority(ask, now, draw);
            return near.choose(&mut self.random).copied();
        };
        let probe = &mut self.pool[index];
        let server = probe.server;
        probe.uses += 1;
        probe.in_flight += 1.0 / self.view.capacity[server];
        if probe.uses >= MAX_USES {
            self.pool.remove(index);
        }
        self.remove_one(threshold);
        self.view.start(server);
        Some(server)
    }

    fn ended(&mut self, server: usize, end: End, _took: Duration, now: Duration) {
        self.view.end(server);
        self.view.result(server, end == End::Done, now);
    }
}
