//! Servers: steps of engines, beacons, probes and events.

use std::{collections::HashSet, time::Duration};

use rand::Rng as _;

use super::{Event, World};
use crate::{engine::Progress, fleet::State, policy::Probed, scenario::Act};

/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// Time without progress after which a beacon reports a server with work as hung.
const WATCH: Duration = Duration::from_secs(3);
/// Time after its last trouble by which a server that serves its clients must get new flows again.
const RECOVERY: Duration = Duration::from_secs(15);
/// Interval between checks of a paused server.
const PAUSE: Duration = Duration::from_millis(20);

impl World<'_> {
    /// Starts the next step of a server that has work and is in none.
    pub(super) fn start_step(&mut self, server: usize) {
        let machine = &mut self.servers[server];
        if machine.step_end.is_some() || machine.state != State::Serving {
            return;
        }
        if let Some(step) = machine.engine.begin_step() {
            machine.step_end = Some(self.now + step);
            let life = machine.life;
            self.after(step, Event::Step(server, life));
        }
    }

    pub(super) fn step_ended(&mut self, server: usize, life: u32) {
        let machine = &mut self.servers[server];
        if machine.life != life {
            return;
        }
        if machine.state == State::Paused {
            self.after(PAUSE, Event::Step(server, life));
            return;
        }
        machine.step_end = None;
        if machine.state != State::Serving {
            return;
        }
        machine.progress = self.now;
        let mut progress = Vec::new();
        machine.engine.end_step(&mut progress);
        for event in progress {
            match event {
                Progress::First(request) => self.produced_first(request, server),
                Progress::Done(request) => {
                    self.at[server].remove(&request);
                    let back = self.back(request, server);
                    self.after(back, Event::Done(request));
                }
            }
        }
        self.start_step(server);
    }

    fn produced_first(&mut self, request: usize, server: usize) {
        let arrived = self.requests[request].arrived;
        let machine = &mut self.servers[server];
        machine.sample(arrived.0, self.now.saturating_sub(arrived.1));
        let back = self.back(request, server);
        self.after(back, Event::First(request));
    }

    fn back(&self, request: usize, server: usize) -> Duration {
        self.servers[server].distances[self.requests[request].node]
    }

    pub(super) fn scrape(&mut self, server: usize) {
        if self.is_over() {
            return;
        }
        let now = self.now;
        let machine = &mut self.servers[server];
        if !machine.frozen && machine.state == State::Serving {
            machine.scraped = machine.report(now);
        }
        self.after(self.scenario.beacon_every, Event::Scrape(server));
    }

    pub(super) fn probe(&mut self, node: usize, server: usize) {
        if self.is_over() {
            return;
        }
        let every = self.scenario.probe_every;
        let jitter = self.random.random_range(0.9..1.1);
        self.after(every.mul_f64(jitter), Event::Probe(node, server));
        let away = self.servers[server].distances[node];
        self.after(away, Event::Probing(node, server));
    }

    pub(super) fn probing(&mut self, node: usize, server: usize) {
        let lost = self.lost() || self.lost();
        let now = self.now;
        let machine = &mut self.servers[server];
        if machine.state == State::Serving && machine.step_end.is_none() {
            machine.progress = now;
        }
        let away = machine.distances[node];
        let idle = now.saturating_sub(machine.progress);
        let (probed, after) = match machine.state {
            State::Dead => (Probed::Refused, away),
            State::Gone | State::Paused => (Probed::Lost, PROBE_TIMEOUT - away),
            State::Serving | State::Hung if lost => (Probed::Lost, PROBE_TIMEOUT - away),
            State::Serving | State::Hung => {
                let answered = Probed::Answered {
                    rtt: 2 * away,
                    report: machine.scraped,
                    direct: machine.report(now),
                    estimate: machine.estimate(),
                    hung: machine.in_flight() > 0 && idle > WATCH,
                    symptom: machine
                        .symptom
                        .map(|symptom| (symptom, self.scenario.hints)),
                };
                (answered, away)
            }
        };
        let index = self.sequence as usize;
        self.probes.insert(index, probed);
        let after = after + self.scenario.processing;
        self.after(after, Event::Probed(node, server, index));
    }

    /// Counts new ejections of servers that serve their clients.
    pub(super) fn count_ejections(&mut self, node: usize) {
        let out = self.nodes[node].ejected(self.now);
        let serves = |server: &usize| {
            let machine = &self.servers[*server];
            machine.state == State::Serving && self.now > machine.wrong + RECOVERY
        };
        let out: HashSet<usize> = out.into_iter().filter(serves).collect();
        self.outcome.ejections += out.difference(&self.ejected[node]).count();
        self.ejected[node] = out;
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Load(load) => self.load = load,
            Act::Speed(server, speed) => self.servers[server].engine.set_speed(speed),
            Act::State(server, state) => self.set_state(server, state),
            Act::Symptom(server, symptom) => self.servers[server].symptom = symptom,
            Act::Region(region, state) => {
                for server in 0..self.servers.len() {
                    if self.servers[server].region == region {
                        self.set_state(server, state);
                    }
                }
            }
            Act::Freeze => self.servers.iter_mut().for_each(|s| s.frozen = true),
            Act::Thaw => self.servers.iter_mut().for_each(|s| s.frozen = false),
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
                self.lose_work(server);
            }
            (_, State::Hung | State::Serving | State::Paused) => {}
        }
        let machine = &mut self.servers[server];
        machine.progress = self.now;
        machine.wrong = self.now;
        self.start_step(server);
    }

    fn lose_work(&mut self, server: usize) {
        let machine = &mut self.servers[server];
        machine.life += 1;
        machine.step_end = None;
        machine.engine.clear();
        machine.expected.clear();
        let under_way: Vec<_> = self.at[server].iter().copied().collect();
        for request in under_way {
            self.outcome.doomed += 1;
            self.fail(request);
        }
        self.close_connections_of(server);
    }
}
