//! Policies: steer itself, and those of other load balancers.

mod baselines;
mod ours;

use std::time::Duration;

use steer_common::abi::FlowKey;

use super::fleet::Symptom;

pub use self::baselines::{InverseLatency, LeastInFlight, PeakEwma, StaticMaglev, TwoChoices};
pub use self::ours::Ours;

/// Result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Answered.
    Answered {
        /// Round-trip time.
        rtt: Duration,
        /// Running requests of the server.
        running: u32,
        /// Queued requests of the server.
        waiting: u32,
        /// Maximum number of concurrent requests.
        slots: u32,
        /// Age of the load.
        age: Duration,
        /// Whether it has work and makes no progress. A plain health page does not report that.
        hung: bool,
        /// Symptom of its engine, and whether its beacon reports it as a hint and not as a hang.
        symptom: Option<(Symptom, bool)>,
    },
    /// Refused.
    Refused,
    /// No answer in time.
    Lost,
}

/// The policy of one node. It sees its own flows, and answers to its own probes.
pub trait Policy {
    /// Records a probe of a server.
    fn probed(&mut self, server: usize, probed: Probed, now: Duration);

    /// Returns the server for a new flow of a service; none if it is refused.
    fn pick(&mut self, service: usize, flow: &FlowKey, now: Duration) -> Option<usize>;

    /// Returns the server of a packet of an open flow that started at `server`.
    fn follow(
        &mut self,
        service: usize,
        flow: &FlowKey,
        server: usize,
        now: Duration,
    ) -> Option<usize>;

    /// Records the end of a flow, with the time to its first token, if there was one.
    fn ended(&mut self, server: usize, first: Option<Duration>, now: Duration);

    /// Advances the time. Called about once a second.
    fn tick(&mut self, now: Duration);

    /// Returns the servers that are ejected.
    fn ejected(&self, _now: Duration) -> Vec<usize> {
        Vec::new()
    }

    /// Returns the changes of the tables since the start, in tables: 1 is a whole one. None without
    /// tables.
    fn moved(&self) -> Option<f64> {
        None
    }
}

/// A named constructor of a policy.
pub struct Maker {
    /// Name.
    pub name: &'static str,
    /// Creates the policy for a site, with a seed.
    pub make: fn(&Site, u64) -> Box<dyn Policy>,
}

/// Knowledge of a policy about the fleet, from its configuration.
#[derive(Clone, Debug)]
pub struct Site {
    /// Servers of each service.
    pub services: Vec<Vec<usize>>,
    /// Maximum number of concurrent requests of each server, and its region.
    pub servers: Vec<(u32, usize)>,
    /// Region of the node.
    pub home: usize,
    /// Regions that may serve; empty means all.
    pub regions: Vec<usize>,
    /// Interval between probes of a server.
    pub probe_every: Duration,
}

/// All policies, ours first.
pub const ALL: [Maker; 6] = [
    Maker {
        name: "steer",
        make: |site, seed| Box::new(Ours::new(site, seed)),
    },
    Maker {
        name: "static maglev",
        make: |site, _| Box::new(StaticMaglev::new(site)),
    },
    Maker {
        name: "two choices",
        make: |site, seed| Box::new(TwoChoices::new(site, seed)),
    },
    Maker {
        name: "least in flight",
        make: |site, _| Box::new(LeastInFlight::new(site)),
    },
    Maker {
        name: "peak ewma",
        make: |site, seed| Box::new(PeakEwma::new(site, seed)),
    },
    Maker {
        name: "inverse latency",
        make: |site, seed| Box::new(InverseLatency::new(site, seed)),
    },
];
