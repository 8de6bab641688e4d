//! Who steers: steer itself, and what others do.

mod baselines;
mod ours;

use std::time::Duration;

use steer_common::abi::FlowKey;

use super::fleet::Symptom;

pub use self::baselines::{InverseLatency, LeastInFlight, PeakEwma, StaticMaglev, TwoChoices};
pub use self::ours::Ours;

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// It was answered.
    Answered {
        /// The round trip.
        rtt: Duration,
        /// Requests that the server works on.
        running: u32,
        /// Requests that wait there.
        waiting: u32,
        /// How many it works on at once.
        slots: u32,
        /// How old the load is.
        age: Duration,
        /// Whether it has work and gets nothing done. A plain health page does not know.
        hung: bool,
        /// Symptom of its engine, and whether its beacon reports it as a hint and not as a hang.
        symptom: Option<(Symptom, bool)>,
    },
    /// It was refused.
    Refused,
    /// Nothing came back in time.
    Lost,
}

/// One node's way to choose. What it sees is its own flows, and answers to its own probes.
pub trait Policy {
    /// Takes in a probe of a server.
    fn probed(&mut self, server: usize, probed: Probed, now: Duration);

    /// The server for a new flow of a service; none if it refuses it.
    fn pick(&mut self, service: usize, flow: &FlowKey, now: Duration) -> Option<usize>;

    /// Where a packet of an open flow goes that was picked for `server`.
    fn follow(
        &mut self,
        service: usize,
        flow: &FlowKey,
        server: usize,
        now: Duration,
    ) -> Option<usize>;

    /// A flow to a server ends: with the time to its first token, if there was one.
    fn ended(&mut self, server: usize, first: Option<Duration>, now: Duration);

    /// Time goes on. Called about once a second.
    fn tick(&mut self, now: Duration);

    /// Servers that are kept from new flows for what was concluded of them.
    fn ejected(&self, _now: Duration) -> Vec<usize> {
        Vec::new()
    }

    /// The part of the tables that changed since the beginning, in tables: 1 is a whole one. None
    /// where there are no tables.
    fn moved(&self) -> Option<f64> {
        None
    }
}

/// A name of a policy, and what makes one for a node.
pub struct Maker {
    /// The name.
    pub name: &'static str,
    /// Makes one for a site, with a seed.
    pub make: fn(&Site, u64) -> Box<dyn Policy>,
}

/// What a policy knows of the fleet from its configuration.
#[derive(Clone, Debug)]
pub struct Site {
    /// Servers of each service.
    pub services: Vec<Vec<usize>>,
    /// Requests that each server works on at once, and its region.
    pub servers: Vec<(u32, usize)>,
    /// The node's region.
    pub home: usize,
    /// Regions that services may be served from; any if it is empty.
    pub regions: Vec<usize>,
    /// From one probe of a server to the next.
    pub probe_every: Duration,
}

/// All of them, ours first.
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
