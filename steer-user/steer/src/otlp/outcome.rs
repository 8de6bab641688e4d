//! Outcome of an export.

use std::time::Duration;

/// Answer of a collector that accepted metrics.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// All points.
    Whole,
    /// All points except some.
    Partly {
        /// Number of rejected points.
        rejected: i64,
        /// Reason given by the collector.
        why: String,
    },
}

/// Reason why an export failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The request could not be sent.
    #[error("{0}")]
    Local(String),
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    #[error("status {code}")]
    Status {
        code: u16,
        /// Time for which the collector asks not to be contacted.
        retry_after: Option<Duration>,
    },
    #[error("not an answer of a collector: {0}")]
    Malformed(String),
}

impl Failure {
    /// Returns the label under which the failure is counted.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::Unreachable(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::Timeout(_) => "timeout",
            Self::Status { .. } => "status",
            Self::Malformed(_) => "malformed",
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
