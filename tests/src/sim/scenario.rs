//! Scenarios: events in a fleet.

use std::time::Duration;

use super::fleet::{Kind, State, Symptom};

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

/// A fleet with its events.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name.
    pub name: &'static str,
    /// Characteristics of servers.
    pub kind: Kind,
    /// Number of servers in each region.
    pub regions: Vec<usize>,
    /// One-way delay between regions; within a region it is a tenth of a millisecond.
    pub distance: Duration,
    /// Number of nodes in each region.
    pub nodes: Vec<usize>,
    /// Number of services, over which servers are distributed.
    pub services: usize,
    /// Regions that may serve; empty means all.
    pub allowed: Vec<usize>,
    /// Request rate, relative to the maximum throughput of the servers in the nodes' regions.
    pub load: f64,
    /// Duration.
    pub length: Duration,
    /// Events with their times.
    pub acts: Vec<(Duration, Act)>,
    /// Interval between probes.
    pub probe_every: Duration,
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
    /// Creates a scenario of two regions with one node, at 60 % of the near region's throughput.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::USUAL,
            regions: vec![8, 8],
            distance: Duration::from_millis(35),
            nodes: vec![0],
            services: 1,
            allowed: Vec::new(),
            load: 0.6,
            length: seconds(120),
            acts: Vec::new(),
            probe_every: Duration::from_millis(100),
            loss: 0.0,
            hints: true,
            seed: 7,
        }
    }

    fn when(mut self, at: u64, act: Act) -> Self {
        self.acts.push((seconds(at), act));
        self
    }
}

/// Returns all scenarios.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let flaps = (0..20).fold(Scenario::new("flapping"), |scenario, turn| {
        let state = if turn % 2 == 0 {
            State::Dead
        } else {
            State::Serving
        };
        scenario.when(40 + turn, Act::State(0, state))
    });
    vec![
        Scenario::new("steady"),
        Scenario::new("1.5x step").when(40, Act::Load(1.5)),
        Scenario::new("5x spike")
            .when(40, Act::Load(5.0))
            .when(50, Act::Load(1.0)),
        Scenario::new("one at 45 %").when(30, Act::Speed(0, 0.45)),
        Scenario::new("hung while healthy")
            .when(40, Act::State(0, State::Hung))
            .when(90, Act::State(0, State::Serving)),
        flaps,
        Scenario {
            allowed: vec![0, 1],
            regions: vec![8, 8, 8],
            ..Scenario::new("region lost")
        }
        .when(40, Act::Region(0, State::Gone))
        .when(80, Act::Region(0, State::Serving)),
        Scenario::new("stale metrics")
            .when(30, Act::Freeze)
            .when(50, Act::Load(1.4))
            .when(90, Act::Thaw),
        Scenario {
            nodes: vec![0; 4],
            ..Scenario::new("four nodes")
        }
        .when(40, Act::Load(1.4)),
        Scenario {
            loss: 0.02,
            ..Scenario::new("2 % loss")
        },
    ]
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
