//! Results of probes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Load, OrcaLoadReport};

/// Outcome of one probe of one backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Name of the backend.
    pub backend: String,
    /// Time at which the outcome was known.
    pub at: Instant,
    /// Result of the probe.
    pub outcome: Result<Sample, ProbeFailure>,
}

/// Result of an answered probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Round-trip time of one datagram.
    pub rtt: Duration,
    /// Duration of the handshake, in the first sample of a fresh connection.
    pub handshake: Option<Duration>,
    /// Load report of the beacon; its numbers are finite and not negative.
    pub report: OrcaLoadReport,
    /// Plausible part of the report that describes the backend's load.
    pub load: Load,
}

/// Trouble with an engine that accepts connections. The numbers are those of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The engine has work, and its progress counters stand still.
    #[error("it has requests and makes no progress")]
    NoProgress = 1,
    /// The engine accepts connections and answers nothing.
    #[error("it accepts connections and does not answer")]
    Silent = 2,
    /// A tiny completion failed or was not answered.
    #[error("it does not answer a tiny completion")]
    NoCompletion = 3,
    /// Trouble unknown to this version.
    #[error("its beacon reports a reason unknown to this version")]
    Other = 4,
    /// The engine reports that it is loading its model.
    #[error("it reports that it is not ready; it is loading its model")]
    Loading = 5,
    /// The engine reports that it sleeps, and a request would not wake it.
    #[error("it sleeps, and requests do not wake it; wake it manually")]
    Asleep = 6,
}

impl Trouble {
    /// Returns the variant with a number.
    #[must_use]
    pub fn from_number(number: f64) -> Self {
        let known = [
            Self::NoProgress,
            Self::Silent,
            Self::NoCompletion,
            Self::Loading,
            Self::Asleep,
        ];
        let found = known.into_iter().find(|t| number == f64::from(*t as u8));
        found.unwrap_or(Self::Other)
    }

    /// Returns whether it follows from a question of the beacon's own, which makes it proof. An
    /// older beacon reports [`Self::NoProgress`] and [`Self::Silent`] without having asked its
    /// engine, which is only testimony.
    #[must_use]
    pub fn is_proof(self) -> bool {
        self == Self::NoCompletion
    }

    /// Returns whether the engine itself reports that it takes no requests. Such an engine is not
    /// hung.
    #[must_use]
    pub fn is_unready(self) -> bool {
        matches!(self, Self::Loading | Self::Asleep)
    }
}

/// Weak sign of trouble with an engine. By itself it takes nothing down: it makes the beacon ask
/// the engine for a tiny completion. The numbers are those of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// The engine has requests, and its counters stand still.
    #[error("it has requests and its counters stand still")]
    NoProgress = 1,
    /// Its page of metrics is slow.
    #[error("its page of metrics is slow")]
    SlowPage = 2,
    /// One of several ranks stands still while its queue grows.
    #[error("one of its ranks stands still while its queue grows")]
    RankStuck = 3,
    /// A tiny completion takes longer than usual.
    #[error("a tiny completion is slow")]
    SlowCompletion = 4,
    /// A hint unknown to this version.
    #[error("a sign unknown to this version")]
    Other = 5,
}

impl Hint {
    /// Returns the variant with a number.
    #[must_use]
    pub fn from_number(number: f64) -> Self {
        let known = [
            Self::NoProgress,
            Self::SlowPage,
            Self::RankStuck,
            Self::SlowCompletion,
        ];
        let found = known.into_iter().find(|h| number == f64::from(*h as u8));
        found.unwrap_or(Self::Other)
    }
}

/// Fact about an engine's load for a person. The numbers are bits of the report.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// Requests wait, and the limit of the queue is unknown.
    #[error(
        "requests wait and no limit is known, so it counts as full; give the beacon --capacity"
    )]
    NoQueueLimit = 1,
    /// The KV cache of one of several ranks is full.
    #[error("the KV cache of one of its ranks is full")]
    RankFull = 2,
    /// One of several ranks stands still while its queue grows, and its capacity is not counted.
    #[error("one of its ranks stands still and does not count in its capacity")]
    RankStuck = 4,
    /// Asleep; a request wakes it.
    #[error("it sleeps until the next request")]
    Asleep = 8,
    /// Its counters are printed with so few digits that small progress is invisible.
    #[error("its counters have too few digits to show progress")]
    CoarseCounters = 16,
    /// A required value on its page is invalid; the beacon's log names it.
    #[error("a value on its page of metrics is implausible; the beacon's log names it")]
    BadValue = 32,
    /// A tiny completion was refused because the engine is full.
    #[error("it reports that it is full")]
    Full = 64,
}

impl Note {
    const ALL: [Self; 7] = [
        Self::NoQueueLimit,
        Self::RankFull,
        Self::RankStuck,
        Self::Asleep,
        Self::CoarseCounters,
        Self::BadValue,
        Self::Full,
    ];

    /// Returns the notes in a number of the report. Bits unknown to this version are ignored.
    #[must_use]
    pub fn from_number(number: f64) -> Vec<Self> {
        // The cast saturates.
        let bits = number as u64;
        let known = Self::ALL.into_iter();
        known.filter(|note| bits & (*note as u64) != 0).collect()
    }

    /// Returns the number that represents these notes.
    #[must_use]
    pub fn number(notes: &[Self]) -> f64 {
        let bits = notes.iter().fold(0, |bits, note| bits | *note as u8);
        f64::from(bits)
    }
}

/// Reason why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeFailure {
    /// No answer arrived in time.
    #[error("no answer within the probe's timeout; check the path, UDP filters and the beacon")]
    Timeout,
    /// The machine, the network or the beacon rejected the probe, or the beacon went away.
    #[error("refused: {0}; check that the beacon runs and listens on this address")]
    Refused(String),
    /// A TCP connection of this node's own was refused: nothing listens on the probed port.
    #[error("connection refused: nothing listens at the probed port; check the backend")]
    ConnectionRefused,
    /// The certificate is trusted, but belongs to someone else.
    #[error("wrong identity: {0}; check the backend's address, name and region")]
    Identity(String),
    /// A certificate of either side is not trusted, or TLS failed otherwise.
    #[error("TLS failed: {0}; check CA, validity and the certificates of both sides")]
    Tls(String),
    /// The beacon reports that its backend is down.
    #[error("the beacon reports that its backend refuses connections; check the engine")]
    BackendDown,
    /// The beacon reports that its backend accepts connections and does no work.
    #[error("hung while healthy: {trouble}, for {seconds} s; check the engine")]
    Hung {
        /// Kind of trouble.
        trouble: Trouble,
        /// Duration in seconds.
        seconds: u64,
    },
    /// The beacon reports that its backend declares itself not ready. Open requests may continue.
    #[error("not ready: {trouble}, for {seconds} s")]
    NotReady {
        /// Reason.
        trouble: Trouble,
        /// Duration in seconds.
        seconds: u64,
    },
    /// The backend answers with an HTTP status other than success.
    #[error("it answers with status {status}; check the probed path, and the backend")]
    Status {
        /// HTTP status.
        status: u16,
    },
    /// The beacon violates the protocol.
    #[error("malformed answer: {0}; check that both sides run the same version")]
    Malformed(String),
    /// This node cannot probe; says nothing about the backend.
    #[error("this node cannot probe: {0}")]
    Local(String),
}
