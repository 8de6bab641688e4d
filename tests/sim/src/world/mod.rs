//! The run: events in the order of their times.

mod clients;
mod servers;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use self::clients::{Connection, Request, Visiting};
use crate::{
    fleet::Server,
    outcome::{Outcome, percentile},
    policy::{Layer, Maker, Policy, Probed, Site},
    scenario::Scenario,
};

/// One-way delay within a region.
const NEAR: Duration = Duration::from_micros(100);
const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client comes.
    Visit,
    /// A visit sends its next request.
    Next(usize),
    /// A node picks a server for the n-th SYN of a connection.
    Syn(usize, u32),
    /// A connection is open at the client.
    Open(usize),
    /// A refusal of a connection arrives at the client.
    Reset(usize),
    /// An attempt of a request got no server.
    Unreachable(usize),
    /// A request reaches its server.
    Reach(usize),
    /// The end of a server's step.
    Step(usize, u32),
    /// The first token arrives at the client.
    First(usize),
    /// The last token arrives at the client.
    Done(usize),
    /// The client gives up, unless it has its first token.
    GiveUp(usize),
    /// A client tries again.
    Retry(usize),
    /// A connection has reached its age.
    Aged(usize),
    /// A beacon reads its engine's metrics.
    Scrape(usize),
    /// A node sends a probe.
    Probe(usize, usize),
    /// A probe arrives at a server.
    Probing(usize, usize),
    /// The result of a probe is known to the policy.
    Probed(usize, usize, usize),
    Tick(usize),
    /// A node tells the others about its flows.
    Gossip(usize),
    /// A node hears from another one: the listener, the teller, and what it told.
    Heard(usize, usize, usize),
    Act(usize),
}

struct World<'a> {
    scenario: &'a Scenario,
    site: Site,
    layer: Layer,
    /// Random numbers of arrivals: the same under all policies.
    arrivals: StdRng,
    random: StdRng,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    servers: Vec<Server>,
    nodes: Vec<Box<dyn Policy>>,
    visits: Vec<Visiting>,
    connections: Vec<Connection>,
    /// Open and opening connections of multiplexing clients, by node.
    shared: Vec<Vec<usize>>,
    requests: Vec<Request>,
    /// Requests at each server or on their way.
    at: Vec<BTreeSet<usize>>,
    probes: HashMap<usize, Probed>,
    told: HashMap<usize, Vec<u32>>,
    /// Ejected servers that serve their clients, by node.
    ejected: Vec<HashSet<usize>>,
    load: f64,
    /// Initial rate of visits per second.
    rate: f64,
    outcome: Outcome,
}

/// Runs a scenario under a policy.
#[must_use]
pub fn run(scenario: &Scenario, maker: &Maker) -> Outcome {
    let mut world = World::new(scenario, maker);
    world.begin();
    while let Some(Reverse((at, _, event))) = world.queue.pop() {
        world.now = at;
        world.step(event);
    }
    world.end()
}

fn servers(scenario: &Scenario) -> Vec<Server> {
    let distance = |from: usize, to: usize| if from == to { NEAR } else { scenario.distance };
    let regions = scenario.regions.iter().enumerate();
    let all = regions.flat_map(|(region, count)| {
        let engines = scenario.engines.iter().cycle().take(*count);
        engines.map(move |engine| (region, *engine))
    });
    all.map(|(region, engine)| {
        let nodes = scenario.nodes.iter();
        let distances = nodes.map(|node| distance(*node, region)).collect();
        Server::new(engine, region, distances)
    })
    .collect()
}

/// Returns the initial rate of visits per second.
fn rate(scenario: &Scenario, servers: &[Server]) -> f64 {
    let homes: HashSet<_> = scenario.nodes.iter().collect();
    let near = servers.iter().filter(|s| homes.contains(&s.region));
    let mut known: Vec<(crate::engine::Profile, f64)> = Vec::new();
    let mut all = 0.0;
    for server in near {
        let profile = *server.engine.profile();
        let found = known.iter().find(|(other, _)| *other == profile);
        let saturation = found.map_or_else(|| scenario.workload.saturation(profile), |(_, s)| *s);
        known.push((profile, saturation));
        all += saturation;
    }
    all * scenario.load / scenario.workload.requests
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, maker: &Maker) -> Self {
        let servers = servers(scenario);
        let dealt = |service: usize| {
            let all = 0..servers.len();
            all.filter(|server| server % scenario.services == service)
                .collect()
        };
        let slots = |s: &Server| (s.engine.profile().max_running, s.region);
        let site = Site {
            services: (0..scenario.services).map(dealt).collect(),
            servers: servers.iter().map(slots).collect(),
            home: 0,
            distances: Vec::new(),
            regions: scenario.allowed.clone(),
            probe_every: scenario.probe_every,
            affinity: scenario.workload.history,
        };
        let nodes = scenario.nodes.iter().enumerate().map(|(node, home)| {
            let site = Site {
                home: *home,
                distances: servers.iter().map(|s| s.distances[node]).collect(),
                ..site.clone()
            };
            (maker.make)(&site, scenario.seed + node as u64)
        });
        let nodes: Vec<_> = nodes.collect();
        Self {
            arrivals: StdRng::seed_from_u64(scenario.seed),
            random: StdRng::seed_from_u64(scenario.seed + 1),
            layer: nodes[0].layer(),
            shared: vec![Vec::new(); nodes.len()],
            nodes,
            scenario,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            sequence: 0,
            at: vec![BTreeSet::new(); servers.len()],
            rate: rate(scenario, &servers),
            servers,
            visits: Vec::new(),
            connections: Vec::new(),
            requests: Vec::new(),
            probes: HashMap::new(),
            told: HashMap::new(),
            ejected: vec![HashSet::new(); scenario.nodes.len()],
            load: 1.0,
            outcome: Outcome::default(),
            site,
        }
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        let entry = (self.now + delay, self.sequence, event);
        self.queue.push(Reverse(entry));
    }

    fn begin(&mut self) {
        for server in 0..self.servers.len() {
            let phase = self.scenario.beacon_every.mul_f64(self.random.random());
            self.after(phase, Event::Scrape(server));
        }
        for node in 0..self.nodes.len() {
            for server in 0..self.servers.len() {
                let phase = self.scenario.probe_every.mul_f64(self.random.random());
                self.after(phase, Event::Probe(node, server));
            }
            self.after(SECOND, Event::Tick(node));
            if let Some(every) = self.scenario.gossip {
                let phase = every.mul_f64(self.random.random());
                self.after(phase, Event::Gossip(node));
            }
        }
        for index in 0..self.scenario.acts.len() {
            let (at, _) = self.scenario.acts[index];
            self.after(at, Event::Act(index));
        }
        // Starts once all servers are known.
        self.after(2 * SECOND, Event::Visit);
    }

    fn is_over(&self) -> bool {
        self.now >= self.scenario.length
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Visit => self.visit(),
            Event::Next(visit) => self.send_next(visit),
            Event::Syn(connection, count) => self.syn(connection, count),
            Event::Open(connection) => self.opened(connection),
            Event::Reset(connection) => self.reset(connection),
            Event::Unreachable(request) => self.unreachable(request),
            Event::Reach(request) => self.reach(request),
            Event::Step(server, life) => self.step_ended(server, life),
            Event::First(request) => self.first(request),
            Event::Done(request) => self.done(request),
            Event::GiveUp(request) => self.give_up(request),
            Event::Retry(request) => self.retry(request),
            Event::Aged(connection) => self.aged(connection),
            Event::Scrape(server) => self.scrape(server),
            Event::Probe(node, server) => self.probe(node, server),
            Event::Probing(node, server) => self.probing(node, server),
            Event::Probed(node, server, index) => {
                let now = self.now;
                if let Some(probed) = self.probes.remove(&index) {
                    self.nodes[node].probed(server, &probed, now);
                }
            }
            Event::Tick(node) => {
                let now = self.now;
                self.nodes[node].tick(now);
                self.count_ejections(node);
                if !self.is_over() {
                    self.after(SECOND, Event::Tick(node));
                }
            }
            Event::Gossip(node) => self.gossip(node),
            Event::Heard(listener, teller, index) => {
                let now = self.now;
                if let Some(told) = self.told.remove(&index) {
                    self.nodes[listener].heard(teller, told, now);
                }
            }
            Event::Act(index) => self.act(self.scenario.acts[index].1),
        }
    }

    fn gossip(&mut self, teller: usize) {
        let Some(every) = self.scenario.gossip.filter(|_| !self.is_over()) else {
            return;
        };
        self.after(every, Event::Gossip(teller));
        let Some(told) = self.nodes[teller].shared() else {
            return;
        };
        for listener in (0..self.nodes.len()).filter(|node| *node != teller) {
            let same = self.scenario.nodes[teller] == self.scenario.nodes[listener];
            let away = if same { NEAR } else { self.scenario.distance };
            let index = self.sequence as usize;
            self.told.insert(index, told.clone());
            self.after(
                away + self.scenario.processing,
                Event::Heard(listener, teller, index),
            );
        }
    }

    fn lost(&mut self) -> bool {
        self.scenario.loss > 0.0 && self.random.random_bool(self.scenario.loss)
    }

    fn end(mut self) -> Outcome {
        let mut times: Vec<Duration> = Vec::new();
        let seconds = self.scenario.length.as_secs() as usize + 1;
        let mut by_second = vec![Vec::new(); seconds];
        for request in &self.requests {
            if let Some(first) = request.first {
                times.push(first);
                let second = (request.start.as_secs() as usize).min(seconds - 1);
                by_second[second].push(first);
            }
        }
        let outcome = &mut self.outcome;
        outcome.requests = self.requests.len();
        outcome.failed = self.requests.iter().filter(|r| r.failed).count();
        outcome.first_ms = [50, 95, 99].map(|percent| percentile(&mut times, percent));
        outcome.first_by_second = by_second
            .iter_mut()
            .map(|times| percentile(times, 95))
            .collect();
        for shares in &mut outcome.shares {
            let all: f64 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share /= all.max(1.0));
        }
        outcome.preemptions = self.servers.iter().map(|s| s.engine.preemptions()).sum();
        let minutes = self.scenario.length.as_secs_f64() / 60.0;
        let moved: Option<f64> = self.nodes.iter().map(|node| node.moved()).sum();
        outcome.moved_per_minute = moved.map(|all| all / self.nodes.len() as f64 / minutes);
        self.outcome
    }
}
