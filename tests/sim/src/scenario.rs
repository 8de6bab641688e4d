//! Scenarios: a fleet, its traffic, and events.

use std::time::Duration;

use crate::{
    engine::Profile,
    fleet::{State, Symptom},
    workload::{Arrivals, Connections, Lengths, Workload},
};

/// An event.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Multiplies the initial request rate by a factor.
    Load(f64),
    /// Sets a server's speed; 1 is normal.
    Speed(usize, f64),
    /// Sets the state of a server.
    State(usize, State),
    /// Sets the symptom of an engine that serves its clients.
    Symptom(usize, Option<Symptom>),
    /// Sets the state of all servers of a region.
    Region(usize, State),
    /// Freezes the load that all beacons report.
    Freeze,
    /// Lets beacons report the real load again.
    Thaw,
}

/// A fleet with its traffic and its events.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name.
    pub name: &'static str,
    /// Engines of a region's servers in turn.
    pub engines: Vec<Profile>,
    /// Traffic.
    pub workload: Workload,
    /// Number of servers in each region.
    pub regions: Vec<usize>,
    /// One-way delay between regions; within a region it is a tenth of a millisecond.
    pub distance: Duration,
    /// Region of each node.
    pub nodes: Vec<usize>,
    /// Number of services, over which servers are distributed.
    pub services: usize,
    /// Regions that may serve; empty means all.
    pub allowed: Vec<usize>,
    /// Request rate, relative to the saturation of the servers in the nodes' regions.
    pub load: f64,
    /// Duration.
    pub length: Duration,
    /// Events with their times.
    pub acts: Vec<(Duration, Act)>,
    /// Interval between probes.
    pub probe_every: Duration,
    /// Interval in which a beacon reads its engine's metrics: the default of `steer-beacon`.
    pub beacon_every: Duration,
    /// Time from the arrival of a report to its use: the daemon polls.
    pub processing: Duration,
    /// Interval in which nodes tell each other about their flows; none if they do not.
    pub gossip: Option<Duration>,
    /// Share of packets lost between nodes and servers.
    pub loss: f64,
    /// Whether beacons report weak signs of trouble as hints; otherwise they report hung engines.
    pub hints: bool,
    /// Seed of all random numbers.
    pub seed: u64,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Scenario {
    /// Creates a scenario of two regions with one node, at 60 % of the near region's saturation.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            engines: vec![Profile::ACCELERATOR],
            workload: Workload::CONVERSATION,
            regions: vec![8, 8],
            distance: Duration::from_millis(35),
            nodes: vec![0],
            services: 1,
            allowed: Vec::new(),
            load: 0.6,
            length: seconds(120),
            acts: Vec::new(),
            probe_every: Duration::from_millis(100),
            beacon_every: seconds(1),
            processing: Duration::from_millis(10),
            gossip: None,
            loss: 0.0,
            hints: true,
            seed: 1,
        }
    }

    fn when(mut self, at: u64, act: Act) -> Self {
        self.acts.push((seconds(at), act));
        self
    }
}

/// Returns the scenarios of load and lengths, in which nothing breaks.
fn calm() -> Vec<Scenario> {
    let steady = |name, load| Scenario {
        load,
        ..Scenario::new(name)
    };
    let traffic = |name, workload| Scenario {
        load: 0.75,
        workload,
        ..Scenario::new(name)
    };
    let own = Workload::CONVERSATION;
    vec![
        Scenario::new("steady"),
        steady("steady 75 %", 0.75),
        steady("steady 85 %", 0.85),
        Scenario {
            engines: vec![Profile::FEW_SLOTS],
            ..steady("few slots", 0.75)
        },
        Scenario {
            engines: vec![Profile::ACCELERATOR, Profile::QUARTER],
            ..steady("capacities 1:4", 0.75)
        },
        Scenario {
            engines: vec![Profile::LITTLE_MEMORY],
            ..steady("little KV cache", 1.2)
        },
        traffic(
            "heavy tails",
            Workload {
                lengths: Lengths::HEAVY,
                ..own
            },
        ),
        traffic(
            "code",
            Workload {
                lengths: Lengths::CODE,
                ..own
            },
        ),
        traffic(
            "bursts",
            Workload {
                arrivals: Arrivals::BURSTS,
                ..own
            },
        ),
        traffic(
            "a day",
            Workload {
                arrivals: Arrivals::Day {
                    swing: 0.5,
                    period: seconds(120),
                },
                ..own
            },
        ),
    ]
}

/// Returns the scenarios of connections and sessions.
fn connected() -> Vec<Scenario> {
    let traffic = |name, workload| Scenario {
        load: 0.75,
        workload,
        ..Scenario::new(name)
    };
    let visits = Workload {
        requests: 5.0,
        think: seconds(3),
        ..Workload::CONVERSATION
    };
    let chat = Workload {
        lengths: Lengths::SHARE_GPT,
        history: true,
        ..visits
    };
    vec![
        traffic(
            "kept connections",
            Workload {
                connections: Connections::Kept,
                ..visits
            },
        ),
        traffic(
            "multiplexed",
            Workload {
                connections: Connections::Multiplexed {
                    count: 200,
                    age: seconds(20),
                },
                ..Workload::CONVERSATION
            },
        ),
        traffic("multi-turn", chat),
        traffic(
            "multi-turn, kept",
            Workload {
                connections: Connections::Kept,
                ..chat
            },
        ),
    ]
}

/// Returns the scenarios in which something breaks or changes.
fn eventful() -> Vec<Scenario> {
    let flapping = |name| {
        (0..20).fold(Scenario::new(name), |scenario, turn| {
            let state = if turn % 2 == 0 {
                State::Dead
            } else {
                State::Serving
            };
            scenario.when(40 + turn, Act::State(0, state))
        })
    };
    let nodes = |name, nodes| {
        Scenario {
            nodes,
            ..Scenario::new(name)
        }
        .when(40, Act::Load(1.4))
    };
    vec![
        Scenario::new("1.5x step").when(40, Act::Load(1.5)),
        Scenario::new("5x spike")
            .when(40, Act::Load(5.0))
            .when(50, Act::Load(1.0)),
        Scenario::new("one at 45 %").when(30, Act::Speed(0, 0.45)),
        Scenario::new("stale metrics")
            .when(30, Act::Freeze)
            .when(50, Act::Load(1.4))
            .when(90, Act::Thaw),
        Scenario::new("hung while healthy")
            .when(40, Act::State(0, State::Hung))
            .when(90, Act::State(0, State::Serving)),
        flapping("flapping"),
        Scenario {
            workload: Workload {
                retries: 2,
                ..Workload::CONVERSATION
            },
            ..flapping("flapping, retries")
        },
        Scenario {
            allowed: vec![0, 1],
            regions: vec![8, 8, 8],
            ..Scenario::new("region lost")
        }
        .when(40, Act::Region(0, State::Gone))
        .when(80, Act::Region(0, State::Serving)),
        nodes("two nodes", vec![0; 2]),
        nodes("four nodes", vec![0; 4]),
        Scenario {
            gossip: Some(Duration::from_millis(100)),
            ..nodes("four nodes, shared", vec![0; 4])
        },
        nodes("two regions with a node", vec![0, 1]),
        Scenario {
            loss: 0.02,
            ..Scenario::new("2 % loss")
        },
    ]
}

/// Returns all scenarios.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [calm(), connected(), eventful()].concat()
}

/// Returns a short scenario of 10,000 servers for 1,000 services.
#[must_use]
pub fn large() -> Scenario {
    Scenario {
        regions: vec![5000, 5000],
        services: 1000,
        load: 0.3,
        length: seconds(4),
        probe_every: seconds(1),
        ..Scenario::new("10,000 x 1,000")
    }
}
