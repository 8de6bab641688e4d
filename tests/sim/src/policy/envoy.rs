//! Two choices by requests in flight.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Ask, End, Policy, Probed, Site, health::View};

/// Envoy's `LEAST_REQUEST` with priorities by locality.
///
/// With equal weights the better one of two random hosts by active requests; with different weights a weighted draw by
/// weight / (active requests + 1) (Envoy, "Least Request Load Balancing Policy": `choice_count` 2,
/// `active_request_bias` 1).
#[derive(Debug)]
pub struct EnvoyLeastRequest {
    view: View,
    random: StdRng,
    weighted: bool,
}

impl EnvoyLeastRequest {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        let view = View::new(site);
        let weighted = view.capacity.windows(2).any(|pair| pair[0] != pair[1]);
        Self {
            view,
            random: StdRng::seed_from_u64(seed),
            weighted,
        }
    }
}

/// Returns two different servers at random; the same one twice if there is no other.
pub(super) fn two(random: &mut StdRng, usable: &[usize]) -> [usize; 2] {
    let a = random.random_range(0..usable.len());
    if usable.len() == 1 {
        return [usable[a]; 2];
    }
    let b = (a + random.random_range(1..usable.len())) % usable.len();
    [usable[a], usable[b]]
}

impl Policy for EnvoyLeastRequest {
    fn probed(&mut self, server: usize, probed: &Probed, _now: Duration) {
        self.view.probed(server, probed);
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let draw = self.random.random();
        let usable = self.view.by_priority(ask, now, draw);
        if usable.is_empty() {
            return None;
        }
        let server = if self.weighted {
            let weight = |server: &usize| {
                self.view.capacity[*server] / f64::from(self.view.in_flight[*server] + 1)
            };
            let all: f64 = usable.iter().map(weight).sum();
            let mut left = self.random.random::<f64>() * all;
            let found = usable.iter().find(|server| {
                left -= weight(server);
                left <= 0.0
            });
            found.copied().unwrap_or(usable[0])
        } else {
            let [a, b] = two(&mut self.random, &usable);
            if self.view.in_flight[b] < self.view.in_flight[a] {
                b
            } else {
                a
            }
        };
        self.view.start(server);
        Some(server)
    }

    fn ended(&mut self, server: usize, end: End, _took: Duration, now: Duration) {
        self.view.end(server);
        self.view.result(server, end == End::Done, now);
    }
}

/// Two choices in the nearest ring by requests in flight over capacity; in the next ring if the better choice has as
/// many as its capacity.
#[derive(Debug)]
pub struct NearestTwoChoices {
    view: View,
    random: StdRng,
}

impl NearestTwoChoices {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
        }
    }
}

impl Policy for NearestTwoChoices {
    fn probed(&mut self, server: usize, probed: &Probed, _now: Duration) {
        self.view.probed(server, probed);
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let mut rest = self.view.usable(ask, now);
        let mut best: Option<(f64, usize)> = None;
        while let Some(near) = rest.iter().map(|s| self.view.distances[*s]).min() {
            let (ring, others): (Vec<_>, Vec<_>) = rest
                .into_iter()
                .partition(|s| self.view.distances[*s] == near);
            rest = others;
            for server in two(&mut self.random, &ring) {
                let load = f64::from(self.view.in_flight[server]) / self.view.capacity[server];
                if best.is_none_or(|(least, _)| load < least) {
                    best = Some((load, server));
                }
            }
            if best.is_some_and(|(load, _)| load < 1.0) {
                break;
            }
        }
        let (_, server) = best?;
        self.view.start(server);
        Some(server)
    }

    fn ended(&mut self, server: usize, end: End, _took: Duration, now: Duration) {
        self.view.end(server);
        self.view.result(server, end == End::Done, now);
    }
}
