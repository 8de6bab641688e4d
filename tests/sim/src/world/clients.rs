//! Clients: visits, connections, requests, and their retries.

use std::{net::Ipv4Addr, time::Duration};

use rand::Rng as _;

use super::{Event, World};
use crate::{
    engine::Job,
    fleet::State,
    policy::{Ask, End, Flow, Layer},
    workload::{Connections, Visit, random::exponential},
};

/// Timeout of the first SYN (RFC 6298), which doubles. Proxies are given the same to connect.
const SYN_RETRY: Duration = Duration::from_secs(1);
/// Number of SYNs that a client sends before it gives up.
const SYNS: u32 = 4;
/// Number of servers that a proxy tries before it gives up (HAProxy: `retries 3` with `option redispatch`).
const ATTEMPTS: u32 = 4;
/// Timeout of the first token.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pause before the first retry, which doubles (as the OpenAI libraries do).
const RETRY: Duration = Duration::from_millis(500);

/// A visit in progress.
pub(super) struct Visiting {
    visit: Visit,
    node: usize,
    service: usize,
    client: Ipv4Addr,
    /// Its open connection, if it keeps one.
    connection: Option<usize>,
    next: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Closed,
}

/// A connection.
pub(super) struct Connection {
    node: usize,
    service: usize,
    flow: Flow,
    server: Option<usize>,
    phase: Phase,
    /// Requests that wait for it to open.
    waiting: Vec<usize>,
    /// Number of requests that use it.
    uses: usize,
    /// Whether it is for one request, or for all of one visit, and closed after that.
    is_shared: bool,
    /// Whether it takes no more requests.
    is_old: bool,
}

/// A request.
pub(super) struct Request {
    pub(super) node: usize,
    visit: usize,
    connection: Option<usize>,
    job: Job,
    server: Option<usize>,
    pub(super) start: Duration,
    pub(super) first: Option<Duration>,
    /// Requests in flight at its server when it arrived there, and when that was.
    pub(super) arrived: (u32, Duration),
    attempts: u32,
    retries: u32,
    sent: Duration,
    /// Whether it is in progress, now and not between two tries.
    is_active: bool,
    pub(super) failed: bool,
}

impl World<'_> {
    pub(super) fn visit(&mut self) {
        if self.is_over() {
            return;
        }
        let workload = &self.scenario.workload;
        let rate = self.rate * self.load;
        let gap = workload.arrivals.gap(&mut self.arrivals, rate, self.now);
        self.after(Duration::from_secs_f64(gap), Event::Visit);
        let index = self.visits.len();
        let client = Ipv4Addr::from_bits(0xc633_0000 | self.arrivals.random::<u32>() & 0xffff);
        self.visits.push(Visiting {
            visit: Visit::new(workload, self.scenario.seed, index as u64),
            node: self.arrivals.random_range(0..self.nodes.len()),
            service: self.arrivals.random_range(0..self.site.services.len()),
            client,
            connection: None,
            next: 0,
        });
        self.send_next(index);
    }

    pub(super) fn send_next(&mut self, visit: usize) {
        if self.is_over() {
            return;
        }
        let visiting = &mut self.visits[visit];
        let Some(wanted) = visiting.visit.requests.get(visiting.next) else {
            return;
        };
        let session = if self.scenario.workload.history {
            visit as u64 + 1
        } else {
            0
        };
        let index = self.requests.len();
        let job = Job {
            id: index,
            ..wanted.job(session)
        };
        self.requests.push(Request {
            node: visiting.node,
            visit,
            connection: None,
            job,
            server: None,
            start: self.now,
            first: None,
            arrived: (0, Duration::ZERO),
            attempts: 0,
            retries: 0,
            sent: self.now,
            is_active: false,
            failed: false,
        });
        visiting.next += 1;
        self.begin_request(index);
    }

    pub(super) fn retry(&mut self, request: usize) {
        self.outcome.retries += 1;
        self.begin_request(request);
    }

    fn begin_request(&mut self, index: usize) {
        let request = &mut self.requests[index];
        (request.is_active, request.attempts) = (true, 0);
        request.sent = self.now;
        self.after(PATIENCE, Event::GiveUp(index));
        if self.layer == Layer::Request {
            self.send(index);
            return;
        }
        let connection = self.connection_for(index);
        self.requests[index].connection = Some(connection);
        let used = &mut self.connections[connection];
        used.uses += 1;
        match used.phase {
            Phase::Open => self.travel(index),
            Phase::Opening | Phase::Closed => used.waiting.push(index),
        }
    }

    /// Returns the connection for a request, and opens one if necessary.
    fn connection_for(&mut self, request: usize) -> usize {
        let visit = self.requests[request].visit;
        let node = self.visits[visit].node;
        match self.scenario.workload.connections {
            Connections::PerRequest => self.open(visit, false),
            Connections::Kept => {
                let kept = self.visits[visit].connection;
                let usable = kept.filter(|c| self.connections[*c].phase != Phase::Closed);
                let connection = usable.unwrap_or_else(|| self.open(visit, false));
                self.visits[visit].connection = Some(connection);
                connection
            }
            Connections::Multiplexed { count, age } => {
                // The same draw for all policies, whatever connections they have.
                let at = self.visits[visit].client.to_bits() as usize % count;
                if self.shared[node].len() <= at || self.is_spent(self.shared[node][at]) {
                    let connection = self.open(visit, true);
                    let life = exponential(&mut self.random, age.as_secs_f64());
                    self.after(Duration::from_secs_f64(life), Event::Aged(connection));
                    let shared = &mut self.shared[node];
                    while shared.len() <= at {
                        shared.push(usize::MAX);
                    }
                    shared[at] = connection;
                }
                self.shared[node][at]
            }
        }
    }

    fn is_spent(&self, connection: usize) -> bool {
        let known = self.connections.get(connection);
        known.is_none_or(|c| c.phase == Phase::Closed || c.is_old)
    }

    fn open(&mut self, visit: usize, is_shared: bool) -> usize {
        let visiting = &self.visits[visit];
        let index = self.connections.len();
        let port = self.random.random();
        self.connections.push(Connection {
            node: visiting.node,
            service: visiting.service,
            flow: Flow {
                client: visiting.client,
                port,
            },
            server: None,
            phase: Phase::Opening,
            waiting: Vec::new(),
            uses: 0,
            is_shared,
            is_old: false,
        });
        self.after(Duration::ZERO, Event::Syn(index, 1));
        index
    }

    pub(super) fn aged(&mut self, connection: usize) {
        self.connections[connection].is_old = true;
        self.close_if_unused(connection);
    }

    /// Sends a SYN: the node picks a server.
    pub(super) fn syn(&mut self, index: usize, count: u32) {
        if self.connections[index].phase != Phase::Opening {
            return;
        }
        let (node, now) = (self.connections[index].node, self.now);
        let before = self.connections[index].server.take();
        let flow = self.connections[index].flow;
        if let Some(server) = before {
            self.nodes[node].closed(server, flow, now);
        }
        let Some(&request) = self.connections[index].waiting.first() else {
            self.connections[index].phase = Phase::Closed;
            return;
        };
        let picked = self.pick(request, self.connections[index].service, flow);
        self.connections[index].server = picked;
        let Some(server) = picked else {
            self.reset(index);
            return;
        };
        let lost = self.lost();
        let machine = &self.servers[server];
        let round = 2 * machine.distances[node];
        match machine.state {
            State::Dead if self.nodes[node].is_proxy() && count < ATTEMPTS => {
                self.after(round, Event::Syn(index, count + 1));
            }
            State::Dead => self.after(round, Event::Reset(index)),
            State::Serving | State::Hung | State::Paused if !lost => {
                self.after(round, Event::Open(index));
            }
            State::Serving | State::Hung | State::Paused | State::Gone => {
                if count < SYNS {
                    let wait = SYN_RETRY * (1 << (count - 1));
                    self.after(wait, Event::Syn(index, count + 1));
                }
            }
        }
    }

    fn pick(&mut self, request: usize, service: usize, flow: Flow) -> Option<usize> {
        let ask = Ask {
            service,
            flow,
            job: &self.requests[request].job,
            node: self.requests[request].node,
            servers: &self.servers,
        };
        let picked = self.nodes[ask.node].pick(&ask, self.now);
        if let Some(server) = picked {
            self.note_share(server);
        }
        picked
    }

    /// Returns the client's side of a request's connection.
    fn flow_of(&self, index: usize) -> Flow {
        let request = &self.requests[index];
        match request.connection {
            Some(connection) => self.connections[connection].flow,
            None => Flow {
                client: self.visits[request.visit].client,
                port: index as u16,
            },
        }
    }

    fn note_share(&mut self, server: usize) {
        let region = self.servers[server].region;
        if !self.site.regions.is_empty() && !self.site.regions.contains(&region) {
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

    pub(super) fn opened(&mut self, index: usize) {
        if self.connections[index].phase != Phase::Opening {
            return;
        }
        self.connections[index].phase = Phase::Open;
        for request in std::mem::take(&mut self.connections[index].waiting) {
            self.travel(request);
        }
        self.close_if_unused(index);
    }

    /// Ends a connection from outside, with its requests.
    pub(super) fn reset(&mut self, index: usize) {
        if self.connections[index].phase == Phase::Closed {
            return;
        }
        let waiting = std::mem::take(&mut self.connections[index].waiting);
        for request in waiting {
            self.fail(request);
        }
        self.close(index);
    }

    /// Lets a proxy pick a server for a request.
    fn send(&mut self, index: usize) {
        let request = &mut self.requests[index];
        if !request.is_active {
            return;
        }
        request.attempts += 1;
        if request.attempts > ATTEMPTS {
            self.fail(index);
            return;
        }
        let service = self.visits[request.visit].service;
        let flow = self.flow_of(index);
        let picked = self.pick(index, service, flow);
        let Some(server) = picked else {
            self.fail(index);
            return;
        };
        self.requests[index].server = Some(server);
        let lost = self.lost();
        let machine = &self.servers[server];
        match machine.state {
            State::Dead => {
                let round = 2 * machine.distances[self.requests[index].node];
                self.after(round, Event::Unreachable(index));
            }
            State::Serving | State::Hung | State::Paused if !lost => self.travel(index),
            State::Serving | State::Hung | State::Paused | State::Gone => {
                self.after(SYN_RETRY, Event::Unreachable(index));
            }
        }
    }

    pub(super) fn unreachable(&mut self, index: usize) {
        let Some(server) = self.requests[index].server.take() else {
            return;
        };
        let request = &self.requests[index];
        let took = self.now.saturating_sub(request.sent);
        let (node, now) = (request.node, self.now);
        self.nodes[node].ended(server, End::Failed, took, now);
        self.send(index);
    }

    /// Sends a request to its server.
    fn travel(&mut self, index: usize) {
        let request = &mut self.requests[index];
        if !request.is_active {
            return;
        }
        if let Some(connection) = request.connection {
            request.server = self.connections[connection].server;
        }
        let Some(server) = request.server else {
            self.fail(index);
            return;
        };
        let (job, node) = (request.job, request.node);
        self.at[server].insert(index);
        if self.layer == Layer::Connection {
            let (flow, now) = (self.flow_of(index), self.now);
            self.nodes[node].sent(server, flow, now);
        }
        let machine = &mut self.servers[server];
        machine.expected.push(job);
        let away = machine.distances[node];
        self.after(away, Event::Reach(index));
    }

    pub(super) fn reach(&mut self, index: usize) {
        let request = &self.requests[index];
        let Some(server) = request.server else {
            return;
        };
        let machine = &mut self.servers[server];
        machine.expected.retain(|job| job.id != index);
        if !self.at[server].contains(&index) {
            return;
        }
        self.packet(index, server);
        let now = self.now;
        let machine = &mut self.servers[server];
        match machine.state {
            State::Serving | State::Hung | State::Paused => {
                if machine.in_flight() == 0 {
                    machine.progress = now;
                }
                self.requests[index].arrived = (machine.in_flight(), now);
                machine.engine.push(self.requests[index].job);
                self.start_step(server);
            }
            State::Dead | State::Gone => {}
        }
    }

    /// Checks that packets of a request still go to its server.
    fn packet(&mut self, index: usize, server: usize) {
        let Some(connection) = self.requests[index].connection else {
            return;
        };
        if self.servers[server].state != State::Serving {
            return;
        }
        let Connection {
            node,
            service,
            flow,
            ..
        } = self.connections[connection];
        let goes = self.nodes[node].follow(service, flow, server, self.now);
        if goes != Some(server) {
            self.outcome.strayed += 1;
        }
    }

    pub(super) fn first(&mut self, index: usize) {
        let request = &mut self.requests[index];
        let Some(server) = request.server.filter(|_| request.is_active) else {
            return;
        };
        request.first = Some(self.now - request.start);
        let (took, node, now) = (self.now - request.sent, request.node, self.now);
        self.packet(index, server);
        let flow = self.flow_of(index);
        self.nodes[node].answered(server, flow, took, now);
    }

    pub(super) fn done(&mut self, index: usize) {
        let request = &self.requests[index];
        let Some(server) = request.server.filter(|_| request.is_active) else {
            return;
        };
        self.packet(index, server);
        self.finish(index, End::Done);
        let visiting = &self.visits[self.requests[index].visit];
        if let Some(next) = visiting.visit.requests.get(visiting.next) {
            self.after(next.think, Event::Next(self.requests[index].visit));
        } else if let Some(connection) = visiting.connection {
            self.close(connection);
        }
    }

    /// Ends an attempt of a request.
    fn finish(&mut self, index: usize, end: End) {
        let request = &mut self.requests[index];
        request.is_active = false;
        let (node, now) = (request.node, self.now);
        let took = now - request.sent;
        if let Some(server) = request.server.take() {
            self.at[server].remove(&index);
            self.servers[server].engine.cancel(index);
            self.servers[server].expected.retain(|job| job.id != index);
            if self.layer == Layer::Request {
                self.nodes[node].ended(server, end, took, now);
            }
        }
        let Some(connection) = self.requests[index].connection.take() else {
            return;
        };
        let used = &mut self.connections[connection];
        used.uses -= 1;
        used.waiting.retain(|waiting| *waiting != index);
        // A request that is given up ends its connection, unless others share it.
        if end == End::Failed && !used.is_shared {
            used.is_old = true;
        }
        self.close_if_unused(connection);
    }

    pub(super) fn give_up(&mut self, index: usize) {
        let request = &self.requests[index];
        // An older try's timer is void.
        if request.first.is_none() && self.now >= request.sent + PATIENCE {
            self.fail(index);
        }
    }

    pub(super) fn fail(&mut self, index: usize) {
        if !self.requests[index].is_active {
            return;
        }
        self.finish(index, End::Failed);
        let most = self.scenario.workload.retries;
        let request = &mut self.requests[index];
        if request.first.is_none() && request.retries < most {
            let wait = RETRY * (1 << request.retries);
            request.retries += 1;
            self.after(wait, Event::Retry(index));
            return;
        }
        request.failed = true;
        let visit = request.visit;
        let visiting = &self.visits[visit];
        if let Some(next) = visiting.visit.requests.get(visiting.next) {
            self.after(next.think, Event::Next(visit));
        }
    }

    fn close_if_unused(&mut self, index: usize) {
        let connection = &self.connections[index];
        let kept = match self.scenario.workload.connections {
            Connections::PerRequest => false,
            Connections::Kept | Connections::Multiplexed { .. } => !connection.is_old,
        };
        if connection.uses == 0 && !kept {
            self.close(index);
        }
    }

    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.phase == Phase::Closed {
            return;
        }
        connection.phase = Phase::Closed;
        let (node, flow) = (connection.node, connection.flow);
        if let Some(server) = connection.server.take() {
            self.nodes[node].closed(server, flow, self.now);
        }
    }

    pub(super) fn close_connections_of(&mut self, server: usize) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.server == Some(server) && connection.phase == Phase::Open {
                self.close(index);
            }
        }
    }
}
