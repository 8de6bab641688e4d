//! The run: events in the order of their times.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    net::Ipv4Addr,
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::abi::FlowKey;

use super::{
    fleet::{Server, State},
    outcome::{Outcome, percentile},
    policy::{Maker, Policy, Probed, Site},
    scenario::{Act, Scenario},
};

/// One-way delay within a region.
const NEAR: Duration = Duration::from_micros(100);
/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// Time without progress after which a beacon reports a server with work as hung.
const WATCH: Duration = Duration::from_secs(3);
/// Timeout of the first SYN (RFC 6298), which doubles.
const SYN_RETRY: Duration = Duration::from_secs(1);
/// Number of SYNs that a client sends before it gives up.
const SYNS: u32 = 4;
/// Timeout of the first token.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time after its last trouble by which a server that serves its clients must get new flows again.
const RECOVERY: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);
/// Interval between checks of a paused server.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    /// A node picks a server for the n-th SYN of a request.
    Syn(usize, u32),
    /// A request reaches its server.
    Reach(usize),
    /// The server produces the first token.
    First(usize),
    /// The server is done.
    Done(usize),
    /// The client gives up, unless it has its first token.
    GiveUp(usize),
    /// A packet of an open flow arrives.
    Packet(usize),
    /// A node sends a probe.
    Probe(usize, usize),
    /// The result of a probe arrives.
    Probed(usize, usize, usize),
    Tick(usize),
    Act(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Waiting,
    Running,
    Over,
}

struct Request {
    node: usize,
    service: usize,
    flow: FlowKey,
    server: Option<usize>,
    start: Duration,
    first: Option<Duration>,
    phase: Phase,
    /// Life of the server in which it started.
    failed: bool,
}

struct World<'a> {
    scenario: &'a Scenario,
    site: Site,
    /// Random numbers of external events: the same under all policies.
    arrivals: StdRng,
    random: StdRng,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    sequence: u64,
    servers: Vec<Server>,
    nodes: Vec<Box<dyn Policy>>,
    requests: Vec<Request>,
    /// Requests at each server.
    at: Vec<HashSet<usize>>,
    probes: HashMap<usize, Probed>,
    /// Ejected servers that serve their clients, by node.
    ejected: Vec<HashSet<usize>>,
    load: f64,
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

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, maker: &Maker) -> Self {
        let distance = |from: usize, to: usize| if from == to { NEAR } else { scenario.distance };
        let regions = scenario.regions.iter().enumerate();
        let servers: Vec<_> = regions
            .flat_map(|(region, count)| std::iter::repeat_n(region, *count))
            .map(|region| {
                let nodes = scenario.nodes.iter();
                let distances = nodes.map(|node| distance(*node, region)).collect();
                Server::new(scenario.kind, region, distances)
            })
            .collect();
        let dealt = |service: usize| {
            let all = 0..servers.len();
            all.filter(|server| server % scenario.services == service)
                .collect()
        };
        let site = Site {
            services: (0..scenario.services).map(dealt).collect(),
            servers: servers.iter().map(|s| (s.kind.slots, s.region)).collect(),
            home: 0,
            regions: scenario.allowed.clone(),
            probe_every: scenario.probe_every,
        };
        let nodes = (scenario.seed..).zip(&scenario.nodes);
        Self {
            arrivals: StdRng::seed_from_u64(scenario.seed),
            random: StdRng::seed_from_u64(scenario.seed + 1),
            nodes: nodes
                .map(|(seed, home)| {
                    let site = Site {
                        home: *home,
                        ..site.clone()
                    };
                    (maker.make)(&site, seed)
                })
                .collect(),
            scenario,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            sequence: 0,
            at: vec![HashSet::new(); servers.len()],
            servers,
            requests: Vec::new(),
            probes: HashMap::new(),
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
        for node in 0..self.nodes.len() {
            for server in 0..self.servers.len() {
                let phase = self.scenario.probe_every.mul_f64(self.random.random());
                self.after(phase, Event::Probe(node, server));
            }
            self.after(SECOND, Event::Tick(node));
        }
        for index in 0..self.scenario.acts.len() {
            let (at, _) = self.scenario.acts[index];
            self.after(at, Event::Act(index));
        }
        // Starts once all servers are known.
        self.after(2 * SECOND, Event::Arrive);
    }

    fn is_over(&self) -> bool {
        self.now >= self.scenario.length
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Syn(request, count) => self.syn(request, count),
            Event::Reach(request) => self.reach(request),
            Event::First(request) => self.first(request),
            Event::Done(request) => self.done(request),
            Event::GiveUp(request) => {
                if self.requests[request].first.is_none() {
                    self.fail(request);
                }
            }
            Event::Packet(request) => self.packet(request),
            Event::Probe(node, server) => self.probe(node, server),
            Event::Probed(node, server, index) => {
                let now = self.now;
                if let Some(probed) = self.probes.remove(&index) {
                    self.nodes[node].probed(server, probed, now);
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
            Event::Act(index) => self.act(self.scenario.acts[index].1),
        }
    }

    /// Returns the initial request rate per second.
    fn rate(&self) -> f64 {
        let homes: HashSet<_> = self.scenario.nodes.iter().collect();
        let near = self.servers.iter().filter(|s| homes.contains(&s.region));
        near.map(|server| server.kind.rate()).sum::<f64>() * self.scenario.load
    }

    fn arrive(&mut self) {
        if self.is_over() {
            return;
        }
        let mean = 1.0 / (self.rate() * self.load);
        let gap = -mean * (1.0 - self.arrivals.random::<f64>()).ln();
        self.after(Duration::from_secs_f64(gap), Event::Arrive);
        let client = Ipv4Addr::from_bits(0xc633_0000 | self.arrivals.random::<u32>() & 0xffff);
        let flow = FlowKey {
            source: client.into(),
            source_port: self.arrivals.random(),
            destination_port: 80,
            protocol: 6,
            family: 4,
            ..FlowKey::default()
        };
        let request = Request {
            node: self.arrivals.random_range(0..self.nodes.len()),
            service: self.arrivals.random_range(0..self.site.services.len()),
            flow,
            server: None,
            start: self.now,
            first: None,
            phase: Phase::Connecting,
            failed: false,
        };
        self.requests.push(request);
        let request = self.requests.len() - 1;
        self.after(PATIENCE, Event::GiveUp(request));
        self.syn(request, 1);
    }

    fn lost(&mut self) -> bool {
        self.scenario.loss > 0.0 && self.random.random_bool(self.scenario.loss)
    }

    fn syn(&mut self, index: usize, count: u32) {
        let now = self.now;
        let request = &mut self.requests[index];
        if request.phase != Phase::Connecting {
            return;
        }
        if let Some(server) = request.server.take() {
            self.nodes[request.node].ended(server, None, now);
        }
        let picked = self.nodes[request.node].pick(request.service, &request.flow, now);
        request.server = picked;
        let Some(server) = picked else {
            // Refused by the node.
            self.fail(index);
            return;
        };
        let distance = self.servers[server].distances[self.requests[index].node];
        let lost = self.lost();
        match self.servers[server].state {
            State::Dead => {
                self.note_share(server);
                self.fail(index);
            }
            State::Serving | State::Hung | State::Paused if !lost => {
                self.note_share(server);
                self.requests[index].phase = Phase::Waiting;
                self.at[server].insert(index);
                // SYN, SYN-ACK, and the request.
                self.after(3 * distance, Event::Reach(index));
            }
            State::Serving | State::Hung | State::Paused | State::Gone => {
                if count < SYNS {
                    let wait = SYN_RETRY * (1 << (count - 1));
                    self.after(wait, Event::Syn(index, count + 1));
                }
            }
        }
    }

    fn note_share(&mut self, server: usize) {
        if !self.site.regions.is_empty()
            && !self.site.regions.contains(&self.servers[server].region)
        {
            self.outcome.outside += 1;
        }
        let second = self.now.as_secs() as usize;
        let servers = self.servers.len();
        let shares = &mut self.outcome.shares;
        while shares.len() <= second {
            shares.push(vec![0.0; servers]);
        }
        shares[second][server] += 1.0;
    }

    fn reach(&mut self, index: usize) {
        let Some(server) = self.serving(index) else {
            return;
        };
        // The request is the flow's first packet after the handshake, and keeps it from being
        // removed as half-open.
        self.packet(index);
        let machine = &mut self.servers[server];
        if machine.running < machine.kind.slots {
            self.start(index, server);
        } else {
            machine.waiting.push_back(index);
        }
    }

    /// Returns the server of a request in progress.
    fn serving(&self, index: usize) -> Option<usize> {
        let request = &self.requests[index];
        request.server.filter(|_| request.phase != Phase::Over)
    }

    fn start(&mut self, index: usize, server: usize) {
        let machine = &mut self.servers[server];
        if machine.running == 0 {
            machine.progress = self.now;
        }
        machine.running += 1;
        self.requests[index].phase = Phase::Running;
        if machine.state == State::Hung {
            return;
        }
        // A request is the same work under all policies.
        let seed = self.scenario.seed << 32 | index as u64;
        let (first, rest) = machine.work(&mut StdRng::seed_from_u64(seed));
        self.after(first, Event::First(index));
        self.after(first + rest / 2, Event::Packet(index));
        self.after(first + rest, Event::Done(index));
    }

    fn first(&mut self, index: usize) {
        let Some(server) = self.serving(index) else {
            return;
        };
        if self.is_paused(server, Event::First(index)) {
            return;
        }
        let machine = &self.servers[server];
        if machine.state != State::Serving {
            return;
        }
        let back = machine.distances[self.requests[index].node];
        let request = &mut self.requests[index];
        request.first = Some(self.now + back - request.start);
    }

    fn packet(&mut self, index: usize) {
        let Some(server) = self.serving(index) else {
            return;
        };
        if self.servers[server].state != State::Serving {
            return;
        }
        let (request, now) = (&self.requests[index], self.now);
        let node = &mut self.nodes[request.node];
        let goes = node.follow(request.service, &request.flow, server, now);
        if goes != Some(server) {
            self.outcome.strayed += 1;
        }
    }

    fn done(&mut self, index: usize) {
        let Some(server) = self.serving(index) else {
            return;
        };
        if self.is_paused(server, Event::Done(index)) {
            return;
        }
        if self.servers[server].state != State::Serving {
            return;
        }
        self.leave(index, server);
        let (request, now) = (&self.requests[index], self.now);
        self.nodes[request.node].ended(server, request.first, now);
    }

    /// Postpones an action of a paused server.
    fn is_paused(&mut self, server: usize, event: Event) -> bool {
        let paused = self.servers[server].state == State::Paused;
        if paused {
            self.after(PAUSE, event);
        }
        paused
    }

    /// Counts new ejections of servers that serve their clients.
    fn count_ejections(&mut self, node: usize) {
        let out = self.nodes[node].ejected(self.now);
        let serves = |server: &usize| {
            let machine = &self.servers[*server];
            machine.state == State::Serving && self.now > machine.wrong + RECOVERY
        };
        let out: HashSet<usize> = out.into_iter().filter(serves).collect();
        self.outcome.ejections += out.difference(&self.ejected[node]).count();
        self.ejected[node] = out;
    }

    /// Removes a request from its server, which continues with the next one.
    fn leave(&mut self, index: usize, server: usize) {
        let was = std::mem::replace(&mut self.requests[index].phase, Phase::Over);
        self.at[server].remove(&index);
        let machine = &mut self.servers[server];
        if was != Phase::Running {
            machine.waiting.retain(|waiting| *waiting != index);
            return;
        }
        machine.running -= 1;
        if machine.state == State::Serving
            && let Some(next) = machine.waiting.pop_front()
        {
            self.start(next, server);
        }
    }

    fn fail(&mut self, index: usize) {
        if self.requests[index].phase == Phase::Over {
            return;
        }
        self.requests[index].failed = true;
        let Some(server) = self.requests[index].server else {
            self.requests[index].phase = Phase::Over;
            return;
        };
        self.leave(index, server);
        let (node, now) = (self.requests[index].node, self.now);
        self.nodes[node].ended(server, None, now);
    }

    fn probe(&mut self, node: usize, server: usize) {
        if self.is_over() {
            return;
        }
        let every = self.scenario.probe_every;
        let jitter = self.random.random_range(0.9..1.1);
        self.after(every.mul_f64(jitter), Event::Probe(node, server));
        let lost = self.lost() || self.lost();
        let machine = &mut self.servers[server];
        if machine.state == State::Serving {
            // A token of one request or another.
            machine.progress = self.now;
        }
        let machine = &self.servers[server];
        let rtt = 2 * machine.distances[node];
        let (running, waiting, age) = machine.load(self.now);
        let idle = self.now.saturating_sub(machine.progress);
        let (probed, after) = match machine.state {
            State::Dead => (Probed::Refused, rtt),
            State::Gone | State::Paused => (Probed::Lost, PROBE_TIMEOUT),
            State::Serving | State::Hung if lost => (Probed::Lost, PROBE_TIMEOUT),
            State::Serving | State::Hung => {
                let answered = Probed::Answered {
                    rtt,
                    running,
                    waiting,
                    slots: machine.kind.slots,
                    age,
                    hung: machine.running > 0 && idle > WATCH,
                    symptom: machine
                        .symptom
                        .map(|symptom| (symptom, self.scenario.hints)),
                };
                (answered, rtt)
            }
        };
        let index = self.sequence as usize;
        self.probes.insert(index, probed);
        self.after(after, Event::Probed(node, server, index));
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Load(load) => self.load = load,
            Act::Speed(server, speed) => self.servers[server].speed = speed,
            Act::State(server, state) => self.set_state(server, state),
            Act::Symptom(server, symptom) => self.servers[server].symptom = symptom,
            Act::Region(region, state) => {
                for server in 0..self.servers.len() {
                    if self.servers[server].region == region {
                        self.set_state(server, state);
                    }
                }
            }
            Act::Freeze => {
                for server in &mut self.servers {
                    let (running, waiting, _) = server.load(self.now);
                    server.stale = Some((running, waiting, self.now));
                }
            }
            Act::Thaw => {
                for server in &mut self.servers {
                    server.stale = None;
                }
            }
        }
    }

    fn set_state(&mut self, server: usize, state: State) {
        let before = std::mem::replace(&mut self.servers[server].state, state);
        if before == state {
            return;
        }
        match (before, state) {
            // Work in progress is lost, now or when the server restarts with nothing in memory.
            (_, State::Dead | State::Gone) | (State::Hung, State::Serving) => {
                let mut under_way: Vec<_> = self.at[server].iter().copied().collect();
                under_way.sort_unstable();
                for index in under_way {
                    self.outcome.doomed += 1;
                    self.fail(index);
                }
            }
            (_, State::Hung | State::Serving | State::Paused) => {}
        }
        self.servers[server].progress = self.now;
        self.servers[server].wrong = self.now;
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
        let minutes = self.scenario.length.as_secs_f64() / 60.0;
        let moved: Option<f64> = self.nodes.iter().map(|node| node.moved()).sum();
        outcome.moved_per_minute = moved.map(|all| all / self.nodes.len() as f64 / minutes);
        self.outcome
    }
}
