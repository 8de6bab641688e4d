//! steer with a choice by expected time to the first token: a model of what the kernel would do with counters that a
//! node that translates both directions has.
//!
//! The daemon's controller, its tables and its health are the real ones. A new flow has three candidates: the first
//! choice of its slot, and two of the four members that the daemon offers to all slots. The one with the lowest
//! [`Signal::expected_us`] gets it.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use steer_core::domain::balance::expected::{ServiceTime, Signal, offers};
use steer_simulator::{
    Report,
    policy::{Ask, Flow, Layer, Policy, Probed, Site},
};

use super::ours::{LOOK, Ours, key, vip};

/// Age of a report from which only the node's own flows count.
const STALE: Duration = Duration::from_secs(3);
/// Service times that a prompt without a cached prefix takes in addition.
const MISS: u32 = 4;
/// Age from which what another node told does not count.
const FORGOTTEN: Duration = Duration::from_millis(500);
/// Time for which a recovered member is not offered to all flows (`[balance] slow_start`).
const SLOW_START: Duration = Duration::from_secs(30);
/// Service time of members of which nobody has answered.
const UNKNOWN_US: u32 = 100_000;
/// One-way delays before the first token: SYN, SYN-ACK, request and answer.
const ONE_WAYS: u32 = 4;

/// Counters of a server's flows through this node.
#[derive(Clone, Debug, Default)]
struct Counters {
    waiting: u32,
    open: u32,
    /// Sum of times to the first byte, sum of flows that waited, and number of answers, in this step.
    answered: (u64, u64, u32),
    service: ServiceTime,
    report: Report,
    /// Beginnings and ends of flows since the report.
    since: VecDeque<(Duration, i32)>,
}

impl Counters {
    fn in_flight(&self, now: Duration) -> u32 {
        if self.report.taken + STALE < now {
            return self.open;
        }
        let since: i32 = self.since.iter().map(|(_, change)| change).sum();
        let reported = (self.report.running + self.report.waiting) as i32;
        ((reported + since).max(0) as u32).max(self.waiting)
    }

    fn change(&mut self, now: Duration, by: i32) {
        self.since.push_back((now, by));
        self.open = self.open.saturating_add_signed(by);
    }
}

/// One node of steer with the choice by expected time.
pub struct TwoChoices {
    ours: Ours,
    site: Site,
    counters: Vec<Counters>,
    /// Open flows: the waiting flows of the flow's server when it began to wait, with itself; none while it does not
    /// wait.
    flows: HashMap<Flow, Option<u32>>,
    /// Offered servers of each service.
    offers: Vec<Vec<usize>>,
    offered: Duration,
    /// Time at which each server began to take new flows.
    up_since: Vec<Option<Duration>>,
    was_up: Vec<bool>,
    /// Waiting flows by server of each other node, and when it told them.
    heard: HashMap<usize, (Duration, Vec<u32>)>,
}

impl TwoChoices {
    /// Creates a node with this site as its configuration.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self {
            ours: Ours::new(site, "adaptive"),
            site: site.clone(),
            counters: vec![Counters::default(); site.servers.len()],
            flows: HashMap::new(),
            offers: vec![Vec::new(); site.services.len()],
            offered: Duration::ZERO,
            up_since: vec![None; site.servers.len()],
            was_up: vec![false; site.servers.len()],
            heard: HashMap::new(),
        }
    }

    fn signal(&self, server: usize, peers_us: u32, now: Duration) -> Signal {
        let counters = &self.counters[server];
        let service_us = counters.service.micros().unwrap_or(peers_us);
        let distance = ONE_WAYS * self.site.distances[server];
        Signal {
            waiting: counters.waiting + self.heard_of(server, now),
            in_flight: counters.in_flight(now),
            capacity: self.site.servers[server].0,
            service_us,
            drain_us: 2 * service_us,
            distance_us: distance.as_micros() as u32,
        }
    }

    /// Returns the waiting flows of a server through other nodes.
    fn heard_of(&self, server: usize, now: Duration) -> u32 {
        let fresh = self.heard.values().filter(|(at, _)| *at + FORGOTTEN > now);
        fresh.filter_map(|(_, waiting)| waiting.get(server)).sum()
    }

    /// Returns whether a server is offered to all flows. One that has just recovered is not: it gets what its slots
    /// give it.
    fn is_offered(&self, server: usize, now: Duration) -> bool {
        let since = self.up_since[server];
        since.is_some_and(|since| since.is_zero() || since + SLOW_START <= now)
    }

    /// Returns the mean service time of a service's members.
    fn peers_us(&self, service: usize) -> u32 {
        let members = self.site.services[service].iter();
        let known: Vec<u32> = members
            .filter_map(|server| self.counters[*server].service.micros())
            .collect();
        let sum: u64 = known.iter().map(|us| u64::from(*us)).sum();
        sum.checked_div(known.len() as u64)
            .map_or(UNKNOWN_US, |mean| mean as u32)
    }

    /// Offers the best members of each service, as the daemon does in each poll.
    fn offer(&mut self, now: Duration) {
        for server in 0..self.up_since.len() {
            let up = self.ours.takes_new(server);
            let since = self.up_since[server];
            let recovered = if self.was_up[server] {
                now
            } else {
                Duration::ZERO
            };
            self.up_since[server] = up.then(|| since.unwrap_or(recovered));
            self.was_up[server] |= up;
        }
        for service in 0..self.offers.len() {
            let peers_us = self.peers_us(service);
            let members = self.site.services[service].iter().copied();
            let members: Vec<usize> = members
                .filter(|server| self.is_offered(*server, now))
                .collect();
            let signals: Vec<Signal> = members
                .iter()
                .map(|server| self.signal(*server, peers_us, now))
                .collect();
            let best = offers(&signals)
                .into_iter()
                .map(|position| members[position]);
            self.offers[service] = best.collect();
        }
    }

    fn begin_wait(&mut self, server: usize) -> u32 {
        let counters = &mut self.counters[server];
        counters.waiting += 1;
        counters.waiting
    }
}

impl Policy for TwoChoices {
    fn layer(&self) -> Layer {
        Layer::Connection
    }

    fn probed(&mut self, server: usize, probed: &Probed, now: Duration) {
        self.ours.probed(server, probed, now);
        if let Probed::Answered { report, .. } = probed {
            let counters = &mut self.counters[server];
            if report.taken > counters.report.taken {
                counters.report = *report;
                counters.since.retain(|(at, _)| *at >= report.taken);
            }
        }
        if now >= self.offered + LOOK {
            self.offered = now;
            self.offer(now);
        }
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize> {
        let asked = if self.site.affinity {
            ask.flow.without_port()
        } else {
            ask.flow
        };
        let mut flow = key(asked);
        flow.destination = vip(ask.service).into();
        let (slot, hash) = self.ours.slot(&flow, ask.service)?;
        let offers = &self.offers[ask.service];
        // Two different ones, by bits of the hash that choose no slot.
        let count = offers.len().max(1);
        let one = hash as usize % count;
        let other = (one + 1 + (hash >> 8) as usize % (count - 1).max(1)) % count;
        let home = self.ours.server(slot.first);
        let offered = [one, other].map(|index| offers.get(index).copied());
        let candidates = [home, offered[0], offered[1]].into_iter().flatten();
        let candidates = candidates.filter(|server| self.ours.takes_new(*server));
        let peers_us = self.peers_us(ask.service);
        let cost = |server: &usize| {
            let signal = self.signal(*server, peers_us, now);
            // What the client's earlier requests computed is at its home only.
            let is_cached = !self.site.affinity || home == Some(*server);
            let missed = if is_cached {
                0
            } else {
                MISS * signal.service_us
            };
            signal.expected_us() + u64::from(missed)
        };
        let server = candidates.min_by_key(cost)?;
        let waits = Some(self.begin_wait(server));
        self.counters[server].change(now, 1);
        self.flows.insert(ask.flow, waits);
        Some(server)
    }

    fn sent(&mut self, server: usize, flow: Flow, _now: Duration) {
        if self.flows.get(&flow).is_some_and(Option::is_none) {
            let waits = self.begin_wait(server);
            self.flows.insert(flow, Some(waits));
        }
    }

    fn answered(&mut self, server: usize, flow: Flow, took: Duration, _now: Duration) {
        let Some(ahead) = self.flows.get_mut(&flow).and_then(Option::take) else {
            return;
        };
        let path = ONE_WAYS * self.site.distances[server];
        let counters = &mut self.counters[server];
        counters.waiting -= 1;
        counters.answered.0 += took.saturating_sub(path).as_micros() as u64;
        counters.answered.1 += u64::from(ahead);
        counters.answered.2 += 1;
    }

    fn closed(&mut self, server: usize, flow: Flow, now: Duration) {
        let counters = &mut self.counters[server];
        counters.change(now, -1);
        if self.flows.remove(&flow).flatten().is_some() {
            counters.waiting -= 1;
        }
    }

    fn tick(&mut self, now: Duration) {
        self.ours.tick(now);
        for service in 0..self.site.services.len() {
            let peers_us = self.peers_us(service);
            for server in &self.site.services[service] {
                let counters = &mut self.counters[*server];
                let (took, waited, answers) = std::mem::take(&mut counters.answered);
                if answers == 0 {
                    counters.service.forget(Some(peers_us));
                } else {
                    counters.service.observe(took, waited, answers);
                }
            }
        }
    }

    fn shared(&self) -> Option<Vec<u32>> {
        Some(
            self.counters
                .iter()
                .map(|counters| counters.waiting)
                .collect(),
        )
    }

    fn heard(&mut self, node: usize, shared: Vec<u32>, now: Duration) {
        self.heard.insert(node, (now, shared));
    }

    fn ejected(&self, now: Duration) -> Vec<usize> {
        self.ours.ejected(now)
    }

    fn moved(&self) -> Option<f64> {
        self.ours.moved()
    }
}
