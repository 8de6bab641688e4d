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
    /// By its own word it does not serve yet: it loads its model.
    #[error("it says that it does not serve yet; it loads its model")]
    Loading = 5,
    /// By its own word it sleeps, and a request would not wake it.
    #[error("it sleeps, and requests do not wake it; wake it up")]
    Asleep = 6,
}

impl Trouble {
    /// The one with that number.
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

    /// Returns whether a question of its beacon's own came to this, which is proof. An older beacon
    /// tells [`Self::NoProgress`] and [`Self::Silent`] of an engine that it did not ask: testimony.
    #[must_use]
    pub fn is_proof(self) -> bool {
        self == Self::NoCompletion
    }

    /// Returns whether the engine says itself that it takes no requests. Such an engine is not hung.
    #[must_use]
    pub fn is_unready(self) -> bool {
        matches!(self, Self::Loading | Self::Asleep)
    }
}

/// A weak sign that an engine may be in trouble. Alone it makes nothing down: it makes the beacon ask the engine
/// for a tiny completion. The numbers are those of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// Requests, and counters that stand still.
    #[error("it has requests and its counters stand still")]
    NoProgress = 1,
    /// Its page of metrics takes long.
    #[error("its page of metrics is slow")]
    SlowPage = 2,
    /// One of several ranks stands still while its queue grows.
    #[error("one of its ranks stands still while its queue grows")]
    RankStuck = 3,
    /// A tiny completion takes longer than usual.
    #[error("a tiny completion takes long")]
    SlowCompletion = 4,
    /// Something that this version doesn't know.
    #[error("a sign that this version does not know")]
    Other = 5,
}

impl Hint {
    /// The one with that number.
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
    /// Requests wait, and nobody says how many may.
    #[error(
        "requests wait and no limit is known, so it counts as full; give the beacon --capacity"
    )]
    NoQueueLimit = 1,
    /// One of several ranks has no room in its KV cache.
    #[error("the KV cache of one of its ranks is full")]
    RankFull = 2,
    /// One of several ranks stands still while its queue grows, and its capacity is not counted.
    #[error("one of its ranks stands still and is left out of its capacity")]
    RankStuck = 4,
    /// Asleep, and a request wakes it.
    #[error("it sleeps until the next request")]
    Asleep = 8,
    /// Its counters are printed with so few digits that small progress is not seen.
    #[error("its counters have too few digits to show progress")]
    CoarseCounters = 16,
    /// A value that is needed is wrong on its page; the beacon's log names it.
    #[error("a value on its page of metrics is not believed; the beacon's log names it")]
    BadValue = 32,
    /// A tiny completion was answered by saying that it is full.
    #[error("it answers that it is full")]
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

    /// Those of a number of the report. Bits that this version doesn't know are left out.
    #[must_use]
    pub fn from_number(number: f64) -> Vec<Self> {
        // A cast saturates.
        let bits = number as u64;
        let known = Self::ALL.into_iter();
        known.filter(|note| bits & (*note as u64) != 0).collect()
    }

    /// The number that says them all.
    #[must_use]
    pub fn number(notes: &[Self]) -> f64 {
        let bits = notes.iter().fold(0, |bits, note| bits | *note as u8);
        f64::from(bits)
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
    /// A TCP connection of this node's own was refused: nothing listens at the probed port.
    #[error("connection refused: nothing listens at the probed port; check the backend")]
    ConnectionRefused,
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
    /// The beacon lives, and its backend says itself that it takes no requests now. Open requests may go on.
    #[error("not ready: {trouble}, for {seconds} s")]
    NotReady {
        /// Why not.
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
