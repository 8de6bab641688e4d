//! The fewest in flight of all.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{Ask, End, Flow, Layer, Policy, Probed, Site, health::View};

/// The fewest requests in flight over capacity; equals at random.
#[derive(Debug)]
pub struct LeastInFlight {
    view: View,
    random: StdRng,
    nearest: bool,
}

impl LeastInFlight {
    /// Creates the policy for a site; it looks at all servers.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
            nearest: false,
        }
    }

    /// Creates the policy for a site; it looks at the nearest locality first, with Envoy's priorities.
    #[must_use]
    pub fn nearest(site: &Site, seed: u64) -> Self {
        Self {
            nearest: true,
            ..Self::new(site, seed)
        }
    }
}

/// Returns the usable server with the fewest in flight over capacity, counting the one to come.
fn least(view: &View, random: &mut StdRng, usable: &[usize]) -> Option<usize> {
    let load = |server: usize| f64::from(view.in_flight[server] + 1) / view.capacity[server];
    let best = usable.iter().map(|s| load(*s)).fold(f64::MAX, f64::min);
    let equal: Vec<usize> = usable
        .iter()
        .copied()
        .filter(|s| load(*s) <= best)
        .collect();
    let index = random.random_range(0..equal.len().max(1));
    equal.get(index).copied()
}

impl Policy for LeastInFlight {
    fn probed(&mut self, server: usize, probed: &Probed, _now: Duration) {
        self.view.probed(server, probed);
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let usable = if self.nearest {
            let draw = self.random.random();
            self.view.by_priority(ask, now, draw)
        } else {
            self.view.usable(ask, now)
        };
        let server = least(&self.view, &mut self.random, &usable)?;
        self.view.start(server);
        Some(server)
    }

    fn ended(&mut self, server: usize, end: End, _took: Duration, now: Duration) {
        self.view.end(server);
        self.view.result(server, end == End::Done, now);
    }
}

/// HAProxy's `leastconn` in TCP mode: the fewest connections over weight, of the servers in the nearest locality (others
/// are `backup`).
#[derive(Debug)]
pub struct LeastConnections {
    view: View,
    random: StdRng,
}

impl LeastConnections {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
        }
    }
}

impl Policy for LeastConnections {
    fn layer(&self) -> Layer {
        Layer::Connection
    }

    fn is_proxy(&self) -> bool {
        true
    }

    fn probed(&mut self, server: usize, probed: &Probed, _now: Duration) {
        self.view.probed(server, probed);
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        // Backup servers are used when no other one is left.
        let usable = self.view.usable(ask, now);
        let near = usable.iter().map(|s| self.view.distances[*s]).min()?;
        let near: Vec<usize> = usable
            .into_iter()
            .filter(|s| self.view.distances[*s] == near)
            .collect();
        let server = least(&self.view, &mut self.random, &near)?;
        self.view.start(server);
        Some(server)
    }

    fn closed(&mut self, server: usize, _flow: Flow, _now: Duration) {
        self.view.end(server);
    }
}
