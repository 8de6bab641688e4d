//! What comes of sending metrics.

use std::time::Duration;

/// What a collector took.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// All.
    Whole,
    /// Not these points.
    Partly {
        /// How many.
        rejected: i64,
        /// What it says of them.
        why: String,
    },
}

/// Why a collector took nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It was not asked.
    #[error("{0}")]
    Local(String),
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no TLS: {0}")]
    Tls(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("status {code}")]
    Status {
        code: u16,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    #[error("no answer of a collector: {0}")]
    Malformed(String),
}

impl Failure {
    /// The label that it is counted by.
    pub(super) fn word(&self) -> &'static str {
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
