//! Health and regions, as other load balancers know them.

use std::{collections::BTreeMap, time::Duration};

use super::{Ask, Probed, Site};

/// Number of equal probes after which a server is up or down. Two is also HAProxy's `rise`.
const PROBES: u32 = 2;
/// Consecutive failed requests that eject a server (Envoy: `consecutive_5xx`).
const FAILURES: u32 = 5;
/// Duration of the first ejection, which grows with each (Envoy: `base_ejection_time`).
const EJECTION: Duration = Duration::from_secs(30);
/// Interval between Envoy's attempts to return servers, the resolution of ejections.
const MAX_EJECTED_PERCENT: usize = 10;
/// Overprovisioning factor of priorities in percent (Envoy: `overprovisioning_factor`).
const OVERPROVISIONING: usize = 140;

#[derive(Clone, Copy, Debug)]
struct Condition {
    up: bool,
    streak: u32,
    failures: u32,
    ejections: u32,
    until: Duration,
}

/// View of the servers that may be used, with their order by distance.
#[derive(Clone, Debug)]
pub(super) struct View {
    services: Vec<Vec<usize>>,
    conditions: Vec<Condition>,
    /// Requests or connections in flight of this node, by server.
    pub(super) in_flight: Vec<u32>,
    /// Configured capacity of each server.
    pub(super) capacity: Vec<f64>,
    /// One-way delay to each server.
    pub(super) distances: Vec<Duration>,
}

impl View {
    pub(super) fn new(site: &Site) -> Self {
        let allowed = |server: &usize| {
            site.regions.is_empty() || site.regions.contains(&site.servers[*server].1)
        };
        let services = site.services.iter();
        let condition = Condition {
            up: true,
            streak: 0,
            failures: 0,
            ejections: 0,
            until: Duration::ZERO,
        };
        Self {
            services: services
                .map(|servers| servers.iter().copied().filter(allowed).collect())
                .collect(),
            conditions: vec![condition; site.servers.len()],
            in_flight: vec![0; site.servers.len()],
            capacity: site
                .servers
                .iter()
                .map(|(slots, _)| f64::from(*slots))
                .collect(),
            distances: site.distances.clone(),
        }
    }

    /// Records an active health check.
    pub(super) fn probed(&mut self, server: usize, probed: &Probed) {
        let ok = matches!(probed, Probed::Answered { .. });
        let condition = &mut self.conditions[server];
        condition.streak = if ok == condition.up {
            0
        } else {
            condition.streak + 1
        };
        if condition.streak >= PROBES {
            condition.up = ok;
            condition.streak = 0;
        }
    }

    /// Records the result of a request, and ejects a server that fails again and again.
    pub(super) fn result(&mut self, server: usize, ok: bool, now: Duration) {
        let ejected = self.conditions.iter().filter(|c| c.until > now).count();
        let most = (self.conditions.len() * MAX_EJECTED_PERCENT / 100).max(1);
        let condition = &mut self.conditions[server];
        condition.failures = if ok { 0 } else { condition.failures + 1 };
        if condition.failures >= FAILURES && ejected < most {
            condition.failures = 0;
            condition.ejections += 1;
            condition.until = now + EJECTION * condition.ejections;
        }
    }

    fn is_usable(&self, server: usize, now: Duration) -> bool {
        let condition = &self.conditions[server];
        condition.up && condition.until <= now
    }

    /// Returns all usable servers of a service, wherever they are.
    pub(super) fn usable(&self, ask: &Ask<'_>, now: Duration) -> Vec<usize> {
        let all = self.services[ask.service].iter().copied();
        all.filter(|server| self.is_usable(*server, now)).collect()
    }

    /// Returns the usable servers of the priority that a request belongs to: nearest servers have the first one. A
    /// priority keeps min(1, 1.4 × its healthy part) of what reaches it, and the next one gets the rest (Envoy,
    /// "Priority levels"). `draw` is a number from 0 to 1.
    pub(super) fn by_priority(&self, ask: &Ask<'_>, now: Duration, draw: f64) -> Vec<usize> {
        let mut levels: BTreeMap<Duration, (usize, Vec<usize>)> = BTreeMap::new();
        for server in &self.services[ask.service] {
            let (all, usable) = levels.entry(self.distances[*server]).or_default();
            *all += 1;
            if self.is_usable(*server, now) {
                usable.push(*server);
            }
        }
        let health = |all: usize, usable: usize| (usable * OVERPROVISIONING / all).min(100);
        let sum: usize = levels.values().map(|(all, u)| health(*all, u.len())).sum();
        // If all priorities together cannot take everything, their parts grow in proportion.
        let mut left = draw * sum.min(100) as f64;
        let mut last = Vec::new();
        for (all, usable) in levels.into_values() {
            let takes = health(all, usable.len()) as f64;
            if usable.is_empty() {
                continue;
            }
            if left < takes {
                return usable;
            }
            left -= takes;
            last = usable;
        }
        last
    }

    pub(super) fn start(&mut self, server: usize) {
        self.in_flight[server] += 1;
    }

    pub(super) fn end(&mut self, server: usize) {
        let flows = &mut self.in_flight[server];
        *flows = flows.saturating_sub(1);
    }
}
