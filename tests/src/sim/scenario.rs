//! What happens to a fleet.

use std::time::Duration;

use super::fleet::{Kind, State, Symptom};

/// Something that happens at a time.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Requests a second become so many times what they were at first.
    Load(f64),
    /// A server's speed; 1 is usual.
    Speed(usize, f64),
    /// What becomes of packets to a server.
    State(usize, State),
    /// Symptom of an engine that serves its clients.
    Symptom(usize, Option<Symptom>),
    /// What becomes of packets to all servers of a region.
    Region(usize, State),
    /// All beacons go on to report the load that they see now.
    Freeze,
    /// Beacons report the load as it is.
    Thaw,
}

/// A fleet and what happens to it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What servers are like.
    pub kind: Kind,
    /// Servers of each region.
    pub regions: Vec<usize>,
    /// Time from a region to another, one way; within a region it is a tenth of a millisecond.
    pub distance: Duration,
    /// Nodes by region.
    pub nodes: Vec<usize>,
    /// Services, among which servers are dealt out.
    pub services: usize,
    /// Regions that services may be served from; any if it is empty.
    pub allowed: Vec<usize>,
    /// Requests a second, as a part of what the servers of the nodes' regions get done at most.
    pub load: f64,
    /// How long it goes on.
    pub length: Duration,
    /// What happens.
    pub acts: Vec<(Duration, Act)>,
    /// From one probe to the next.
    pub probe_every: Duration,
    /// Part of the packets that are lost on the way to servers and back.
    pub loss: f64,
    /// Whether beacons take weak signs of trouble for what they are; otherwise they say that engines hang.
    pub hints: bool,
    /// The seed of all that is random.
    pub seed: u64,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Scenario {
    /// Two regions with one node, at 60 % of what the near one gets done.
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

/// All scenarios.
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

/// A fleet of 10,000 servers for 1,000 services, for a moment.
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
