//! A fixed distribution by capacity.

use std::{
    hash::{DefaultHasher, Hasher as _},
    time::Duration,
};

use super::{Ask, Layer, Policy, Probed, Site, health::View};

/// A consistent hash of the connection over the servers that answer, weighted by capacity, nearest first: what a Maglev
/// table without feedback gives. With affinity it is the hash of the client's address. Weighted rendezvous hashing has the same shares.
#[derive(Debug)]
pub struct ByHash {
    view: View,
    affinity: bool,
}

impl ByHash {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self {
            view: View::new(site),
            affinity: site.affinity,
        }
    }
}

/// Returns a number from 0 to 1, exclusive, that depends on its argument only.
fn uniform(value: impl std::hash::Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

impl Policy for ByHash {
    fn layer(&self) -> Layer {
        Layer::Connection
    }

    fn probed(&mut self, server: usize, probed: &Probed, _now: Duration) {
        self.view.probed(server, probed);
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let flow = if self.affinity {
            ask.flow.without_port()
        } else {
            ask.flow
        };
        let usable = self.view.by_priority(ask, now, uniform(flow));
        let score = |server: &usize| -self.view.capacity[*server] / uniform((flow, *server)).ln();
        usable
            .into_iter()
            .max_by(|a, b| score(a).total_cmp(&score(b)))
    }
}
