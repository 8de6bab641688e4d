//! Policies of other load balancers. Each knows which servers answer a plain health page, with the
//! same rise and fall as ours; none detects a hung server that answers it.

use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::{abi::FlowKey, hash};
use steer_core::domain::{
    balance::{BalancePolicy, Cause, Member, Pool, SUM, Settings, Shares, State, Ticked},
    health::{self, Health},
    maglev::{self, Choice, Weighted},
};

use super::{Policy, Probed, Site};

/// Information available to all of them.
struct View {
    services: Vec<Vec<usize>>,
    health: Vec<Health>,
    in_flight: Vec<u32>,
    start: Instant,
    changed: bool,
}

impl View {
    fn new(site: &Site) -> Self {
        let allowed = |server: &usize| {
            site.regions.is_empty() || site.regions.contains(&site.servers[*server].1)
        };
        let services = site.services.iter();
        Self {
            services: services
                .map(|servers| servers.iter().copied().filter(allowed).collect())
                .collect(),
            health: vec![Health::new(2, 2); site.servers.len()],
            in_flight: vec![0; site.servers.len()],
            start: Instant::now(),
            changed: true,
        }
    }

    fn probed(&mut self, server: usize, probed: Probed, now: Duration) {
        let ok = matches!(probed, Probed::Answered { .. });
        let changed = self.health[server].observe(ok, self.start + now);
        self.changed |= changed.is_some();
    }

    fn usable(&self, service: usize) -> Vec<usize> {
        let servers = self.services[service].iter().copied();
        servers
            .filter(|server| self.health[*server].state() == health::State::Up)
            .collect()
    }
}

/// Implements the differences between policies that look at all servers for each flow.
macro_rules! policy {
    ($name:ident, $pick:expr, $ended:expr) => {
        impl Policy for $name {
            fn probed(&mut self, server: usize, probed: Probed, now: Duration) {
                self.view.probed(server, probed, now);
            }

            fn pick(&mut self, service: usize, flow: &FlowKey, now: Duration) -> Option<usize> {
                let usable = self.view.usable(service);
                if usable.is_empty() {
                    return None;
                }
                let server = $pick(self, &usable, flow, now);
                self.view.in_flight[server] += 1;
                Some(server)
            }

            fn follow(
                &mut self,
                _: usize,
                _: &FlowKey,
                server: usize,
                _: Duration,
            ) -> Option<usize> {
                Some(server)
            }

            fn ended(&mut self, server: usize, first: Option<Duration>, now: Duration) {
                let flows = &mut self.view.in_flight[server];
                *flows = flows.saturating_sub(1);
                $ended(self, server, first, now);
            }

            fn tick(&mut self, _: Duration) {}
        }
    };
}

/// Shares by capacity alone.
#[derive(Clone, Copy, Debug)]
struct ByCapacity;

impl BalancePolicy for ByCapacity {
    fn step(&self, _: &mut State, _: &Settings, _: &[Pool], _: &[Member], _: Cause) -> Ticked {
        Ticked::default()
    }

    fn shares(&self, _: &State, _: &[Pool], members: &[Member]) -> Shares {
        let weight = |member: &Member| u64::from(member.capacity) * u64::from(member.healthy);
        let all: u64 = members.iter().map(weight).sum();
        let share = |member| weight(member) * u64::from(SUM) / all.max(1);
        Shares {
            members: members.iter().map(|member| share(member) as u32).collect(),
            nobody: 0,
        }
    }
}

/// A consistent-hash table over the servers that answer, by a balance policy that remembers nothing.
pub struct StaticMaglev {
    view: View,
    policy: Box<dyn BalancePolicy>,
    slots: Vec<u32>,
    tables: Vec<Vec<Choice>>,
}

impl StaticMaglev {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self {
            view: View::new(site),
            policy: Box::new(ByCapacity),
            slots: site.servers.iter().map(|(slots, _)| *slots).collect(),
            tables: Vec::new(),
        }
    }

    fn build(&mut self) {
        let services = 0..self.view.services.len();
        self.tables = services.map(|service| self.table(service)).collect();
    }

    fn table(&self, service: usize) -> Vec<Choice> {
        let usable = self.view.usable(service);
        let member = |server: &usize| Member {
            name: server.to_string(),
            healthy: true,
            capacity: self.slots[*server],
            ..Member::default()
        };
        let members: Vec<Member> = usable.iter().map(member).collect();
        let shares = self.policy.shares(&State::default(), &[], &members);
        let weighted: Vec<_> = usable
            .iter()
            .zip(&members)
            .zip(shares.members)
            .map(|((server, member), weight)| Weighted {
                id: *server as u16 + 1,
                name: &member.name,
                weight,
            })
            .collect();
        let len = maglev::table_size(self.view.services[service].len());
        maglev::build(&weighted, len, 1)
    }
}

impl Policy for StaticMaglev {
    fn probed(&mut self, server: usize, probed: Probed, now: Duration) {
        self.view.probed(server, probed, now);
    }

    fn pick(&mut self, service: usize, flow: &FlowKey, _: Duration) -> Option<usize> {
        if std::mem::take(&mut self.view.changed) {
            self.build();
        }
        let table = &self.tables[service];
        let index = hash::reduce(hash::flow(flow, 1), table.len() as u32);
        let first = table.get(index as usize)?.first;
        (first != 0).then(|| usize::from(first) - 1)
    }

    fn follow(&mut self, _: usize, _: &FlowKey, server: usize, _: Duration) -> Option<usize> {
        Some(server)
    }

    fn ended(&mut self, _: usize, _: Option<Duration>, _: Duration) {}

    fn tick(&mut self, _: Duration) {}
}

/// The less loaded of two random servers, by this node's flows (Mitzenmacher, 2001).
pub struct TwoChoices {
    view: View,
    random: StdRng,
}

impl TwoChoices {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
        }
    }
}

fn two(random: &mut StdRng, usable: &[usize]) -> [usize; 2] {
    [(); 2].map(|()| usable[random.random_range(0..usable.len())])
}

policy!(
    TwoChoices,
    |own: &mut TwoChoices, usable: &[usize], _: &FlowKey, _: Duration| {
        let [a, b] = two(&mut own.random, usable);
        let flows = &own.view.in_flight;
        if flows[b] < flows[a] { b } else { a }
    },
    |_: &mut TwoChoices, _, _, _| ()
);

/// The server with the fewest of this node's flows.
pub struct LeastInFlight {
    view: View,
    turn: usize,
}

impl LeastInFlight {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site) -> Self {
        Self {
            view: View::new(site),
            turn: 0,
        }
    }
}

policy!(
    LeastInFlight,
    |own: &mut LeastInFlight, usable: &[usize], _: &FlowKey, _: Duration| {
        // Equal ones take turns.
        own.turn += 1;
        let turn = own.turn;
        let flows = &own.view.in_flight;
        let places = 0..usable.len();
        let order = places.map(|place| usable[(place + turn) % usable.len()]);
        order
            .min_by_key(|server| flows[*server])
            .unwrap_or(usable[0])
    },
    |_: &mut LeastInFlight, _, _, _| ()
);

/// An average of times to the first token that follows peaks at once and falls slowly.
#[derive(Clone, Copy, Default)]
struct Peak {
    value: f64,
    at: Duration,
}

impl Peak {
    const FALL: f64 = 10.0;

    fn now(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64();
        self.value * (-age / Self::FALL).exp()
    }

    fn observe(&mut self, sample: f64, now: Duration) {
        let age = now.saturating_sub(self.at).as_secs_f64();
        let keep = (-age / Self::FALL).exp();
        self.value = if sample > self.value {
            sample
        } else {
            self.value * keep + sample * (1.0 - keep)
        };
        self.at = now;
    }
}

/// The better of two random servers by latency times flows (Finagle's and linkerd's "peak EWMA").
pub struct PeakEwma {
    view: View,
    random: StdRng,
    peaks: Vec<Peak>,
}

impl PeakEwma {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
            peaks: vec![Peak::default(); site.servers.len()],
        }
    }
}

policy!(
    PeakEwma,
    |own: &mut PeakEwma, usable: &[usize], _: &FlowKey, now: Duration| {
        let [a, b] = two(&mut own.random, usable);
        let cost =
            |server: usize| own.peaks[server].now(now) * f64::from(own.view.in_flight[server] + 1);
        if cost(b) < cost(a) { b } else { a }
    },
    |own: &mut PeakEwma, server: usize, first: Option<Duration>, now| {
        // A failure counts as slow.
        let sample = first.map_or(10.0, |first| first.as_secs_f64());
        own.peaks[server].observe(sample, now);
    }
);

/// A random server, in inverse proportion to the smoothed time to the first token.
pub struct InverseLatency {
    view: View,
    random: StdRng,
    smoothed: Vec<f64>,
}

impl InverseLatency {
    /// Creates the policy for a site.
    #[must_use]
    pub fn new(site: &Site, seed: u64) -> Self {
        Self {
            view: View::new(site),
            random: StdRng::seed_from_u64(seed),
            smoothed: vec![0.1; site.servers.len()],
        }
    }
}

policy!(
    InverseLatency,
    |own: &mut InverseLatency, usable: &[usize], _: &FlowKey, _: Duration| {
        let weight = |server: &usize| 1.0 / own.smoothed[*server].max(0.001);
        let all: f64 = usable.iter().map(weight).sum();
        let mut left = own.random.random::<f64>() * all;
        let found = usable.iter().find(|server| {
            left -= weight(server);
            left <= 0.0
        });
        found.copied().unwrap_or(usable[0])
    },
    |own: &mut InverseLatency, server: usize, first: Option<Duration>, _| {
        let sample = first.map_or(10.0, |first| first.as_secs_f64());
        let smoothed = &mut own.smoothed[server];
        *smoothed += 0.1 * (sample - *smoothed);
    }
);
