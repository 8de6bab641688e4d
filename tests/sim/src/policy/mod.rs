//! Policies of load balancers, and what each of them can see.
//!
//! A policy of layer 7 chooses for each request and sees answers. A policy of layer 4 chooses for each connection and
//! sees packets only.

mod envoy;
mod hashing;
mod health;
mod inference;
mod least;
mod oracle;
mod peak_ewma;
mod prequal;
#[cfg(test)]
mod tests;

use std::{net::Ipv4Addr, time::Duration};

use crate::{
    engine::Job,
    fleet::{Report, Server, Symptom},
};

pub use self::{
    envoy::{EnvoyLeastRequest, NearestTwoChoices},
    hashing::ByHash,
    inference::InferenceScorer,
    least::{LeastConnections, LeastInFlight},
    oracle::Oracle,
    peak_ewma::PeakEwma,
    prequal::Prequal,
};

/// Unit for which a policy chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A connection, at its first packet.
    Connection,
    /// A request.
    Request,
}

/// Client's side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Address.
    pub client: Ipv4Addr,
    /// Port.
    pub port: u16,
}

impl Flow {
    /// Returns the flow that stands for all flows of its client.
    #[must_use]
    pub const fn without_port(self) -> Self {
        Self { port: 0, ..self }
    }
}

/// Question of where something goes.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Service.
    pub service: usize,
    /// Connection of the client.
    pub flow: Flow,
    /// Request. Only policies of layer 7 read it, and its length of the answer only the oracle.
    pub job: &'a Job,
    /// Index of the asking node.
    pub node: usize,
    /// All servers as they are. Only the oracle reads them.
    pub servers: &'a [Server],
}

/// Result of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Probed {
    /// Answered.
    Answered {
        /// Round-trip time.
        rtt: Duration,
        /// Report of the beacon: as old as its last reading of the engine.
        report: Report,
        /// The engine's own metrics when the probe arrived there.
        direct: Report,
        /// The engine's estimate of its time to the first token.
        estimate: Duration,
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

/// End of a request, as a node of layer 7 sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer is complete.
    Done,
    /// Failure, or a client that gave up.
    Failed,
}

/// The policy of one node.
pub trait Policy {
    /// Returns the unit for which it chooses.
    fn layer(&self) -> Layer {
        Layer::Request
    }

    /// Returns whether its node is a proxy, which tries another server if one refuses or does not answer.
    fn is_proxy(&self) -> bool {
        self.layer() == Layer::Request
    }

    /// Records a probe of a server.
    fn probed(&mut self, server: usize, probed: &Probed, now: Duration);

    /// Returns the server; none if the node refuses.
    fn pick(&mut self, ask: &Ask<'_>, now: Duration) -> Option<usize>;

    /// Returns the server of a packet of an open connection that started at `server`.
    fn follow(
        &mut self,
        _service: usize,
        _flow: Flow,
        server: usize,
        _now: Duration,
    ) -> Option<usize> {
        Some(server)
    }

    /// Records the end of a connection. For layer 4.
    fn closed(&mut self, _server: usize, _flow: Flow, _now: Duration) {}

    /// Records that a client sends a request on an open connection. For layer 4: the node sees the client's data.
    fn sent(&mut self, _server: usize, _flow: Flow, _now: Duration) {}

    /// Records the first token of a request, with the time since it was sent. For layer 7, and for a node of layer 4
    /// that translates both directions: it sees the first byte of an answer.
    fn answered(&mut self, _server: usize, _flow: Flow, _took: Duration, _now: Duration) {}

    /// Records the end of a request, with its whole duration. For layer 7.
    fn ended(&mut self, _server: usize, _end: End, _took: Duration, _now: Duration) {}

    /// Advances the time. Called about once a second.
    fn tick(&mut self, _now: Duration) {}

    /// Returns the servers that are ejected.
    fn ejected(&self, _now: Duration) -> Vec<usize> {
        Vec::new()
    }

    /// Returns what the node tells the others about its flows, by server; none if it tells nothing.
    fn shared(&self) -> Option<Vec<u32>> {
        None
    }

    /// Records what another node tells.
    fn heard(&mut self, _node: usize, _shared: Vec<u32>, _now: Duration) {}

    /// Returns the changes of the tables since the start, in tables: 1 is a whole one. None without
    /// tables.
    fn moved(&self) -> Option<f64> {
        None
    }
}

/// A named constructor of a policy.
#[derive(Clone, Copy)]
pub struct Maker {
    /// Name.
    pub name: &'static str,
    /// Whether it knows what no real one can know: a bound, and no rival.
    pub is_bound: bool,
    /// Whether it is a policy of steer.
    pub is_ours: bool,
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
    /// One-way delay to each server. Policies that want it measure it; it does not change.
    pub distances: Vec<Duration>,
    /// Regions that may serve; empty means all.
    pub regions: Vec<usize>,
    /// Interval between probes of a server.
    pub probe_every: Duration,
    /// Whether requests of a client belong together, so that the operator asks for affinity by its address.
    pub affinity: bool,
}

macro_rules! maker {
    ($name:literal, $make:expr) => {
        Maker {
            name: $name,
            is_bound: false,
            is_ours: false,
            make: $make,
        }
    };
}

/// Policies of other load balancers.
pub const RIVALS: [Maker; 10] = [
    maker!("envoy locality + least request", |site, seed| Box::new(
        EnvoyLeastRequest::new(site, seed)
    )),
    maker!("nearest ring + two choices", |site, seed| Box::new(
        NearestTwoChoices::new(site, seed)
    )),
    maker!("prequal", |site, seed| Box::new(Prequal::new(site, seed))),
    maker!("prequal, in flight only", |site, seed| Box::new(
        Prequal::by_in_flight(site, seed)
    )),
    maker!("inference scorer (GAIE)", |site, seed| Box::new(
        InferenceScorer::new(site, seed)
    )),
    maker!("peak ewma", |site, seed| Box::new(PeakEwma::new(
        site, seed
    ))),
    maker!("least in flight", |site, seed| Box::new(
        LeastInFlight::new(site, seed)
    )),
    maker!("nearest least in flight", |site, seed| Box::new(
        LeastInFlight::nearest(site, seed)
    )),
    maker!("haproxy leastconn (tcp)", |site, seed| Box::new(
        LeastConnections::new(site, seed)
    )),
    maker!("static hash", |site, _| Box::new(ByHash::new(site))),
];

/// Policies that know every queue at no delay.
pub const ORACLES: [Maker; 2] = [
    Maker {
        name: "oracle (request)",
        is_bound: true,
        is_ours: false,
        make: |site, _| Box::new(Oracle::new(site, Layer::Request)),
    },
    Maker {
        name: "oracle (connection)",
        is_bound: true,
        is_ours: false,
        make: |site, _| Box::new(Oracle::new(site, Layer::Connection)),
    },
];
