//! A bound: all queues known at no delay.

use std::time::Duration;

use super::{Ask, Layer, Policy, Probed, Site};

/// The server with the earliest first token, by simulation of every engine with what it has and what is on its way.
///
/// It is greedy: it does not trade a request's time for those of later ones.
#[derive(Debug)]
pub struct Oracle {
    layer: Layer,
    services: Vec<Vec<usize>>,
}

impl Oracle {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, layer: Layer) -> Self {
        let allowed = |server: &usize| {
            site.regions.is_empty() || site.regions.contains(&site.servers[*server].1)
        };
        let services = site.services.iter();
        Self {
            layer,
            services: services
                .map(|servers| servers.iter().copied().filter(allowed).collect())
                .collect(),
        }
    }
}

impl Policy for Oracle {
    fn layer(&self) -> Layer {
        self.layer
    }

    fn probed(&mut self, _server: usize, _probed: &Probed, _now: Duration) {}

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let handshake = |server: usize| match self.layer {
            Layer::Connection => 2 * ask.servers[server].distances[ask.node],
            Layer::Request => Duration::ZERO,
        };
        let first = |server: usize| {
            let predicted = ask.servers[server].predict(*ask.job, ask.node, now)?;
            Some((predicted + handshake(server), server))
        };
        let all = self.services[ask.service].iter();
        all.filter_map(|server| first(*server))
            .min()
            .map(|(_, server)| server)
    }
}
