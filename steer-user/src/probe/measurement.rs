//! What a probe finds out.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Load, OrcaLoadReport};

/// The outcome of one probe of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// The backend's name.
    pub backend: String,
    /// When the outcome was known.
    pub at: Instant,
    /// What came of it.
    pub outcome: Result<Sample, ProbeFailure>,
}

/// A probe that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Round trip of one datagram.
    pub rtt: Duration,
    /// How long the handshake took, in the first sample of a fresh connection.
    pub handshake: Option<Duration>,
    /// The load that the beacon reports; its numbers are finite and not negative.
    pub report: OrcaLoadReport,
    /// What of the report is the load of the backend, as far as it can be believed.
    pub load: Load,
}

/// What is wrong with an engine that takes connections. The numbers are those of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// It has work, and the counters that should go on do not.
    #[error("it has requests and makes no progress")]
    NoProgress = 1,
    /// It takes connections and answers nothing.
    #[error("it takes connections and does not answer")]
    Silent = 2,
    /// A tiny completion was not answered as it should be.
    #[error("it does not answer a tiny completion")]
    NoCompletion = 3,
    /// Something that this version doesn't know.
    #[error("its beacon gives a reason that this version does not know")]
    Other = 4,
}

impl Trouble {
    /// The one with that number.
    #[must_use]
    pub fn from_number(number: f64) -> Self {
        let known = [Self::NoProgress, Self::Silent, Self::NoCompletion];
        let found = known.into_iter().find(|t| number == f64::from(*t as u8));
        found.unwrap_or(Self::Other)
    }
}

/// Why a probe wasn't answered as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeFailure {
    /// Nothing came back in time.
    #[error("no answer within the probe's timeout; check the path, UDP filters and the beacon")]
    Timeout,
    /// The machine, the network or the beacon said no, or the beacon went away.
    #[error("refused: {0}; check that the beacon runs and listens at this address")]
    Refused(String),
    /// A trusted certificate, but of someone else.
    #[error("wrong identity: {0}; check the backend's address, name and region")]
    Identity(String),
    /// A certificate that isn't trusted on one of the sides, or another TLS failure.
    #[error("TLS failed: {0}; check CA, validity and the certificates of both sides")]
    Tls(String),
    /// The beacon lives and says that its backend does not.
    #[error("the beacon reports that its backend refuses connections; check the engine")]
    BackendDown,
    /// The beacon lives, and its backend takes connections and does no work.
    #[error("hung while healthy: {trouble}, for {seconds} s; look at the engine")]
    Hung {
        /// What is wrong.
        trouble: Trouble,
        /// For how long.
        seconds: u64,
    },
    /// The backend answers with a status that is not one of success.
    #[error("it answers with status {status}; check the path that is probed, and the backend")]
    Status {
        /// The status.
        status: u16,
    },
    /// The beacon doesn't keep to the protocol.
    #[error("malformed answer: {0}; do both sides run the same version?")]
    Malformed(String),
    /// This node can't probe; says nothing about the backend.
    #[error("this node can't probe: {0}")]
    Local(String),
}
