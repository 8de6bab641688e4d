//! Reasons for an ejection.

use serde::{Deserialize, Serialize};

use crate::domain::outliers::Reason as OutlierReason;

/// Reason for an ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The backend refuses connections.
    Refused,
    /// The backend does not answer connections.
    Unanswered,
    /// The backend is silent with work in flight.
    Silent,
    /// The backend resets connections after it accepted them.
    Resets,
    /// The backend ends connections without an answer.
    EndsEarly,
    /// Its answers are much smaller than its peers', and faster or incomplete.
    TinyAnswers,
}

impl From<OutlierReason> for Reason {
    fn from(reason: OutlierReason) -> Self {
        match reason {
            OutlierReason::Resets => Self::Resets,
            OutlierReason::EndsEarly => Self::EndsEarly,
            OutlierReason::TinyAnswers => Self::TinyAnswers,
        }
    }
}

impl Reason {
    /// Returns whether this reason comes from a comparison with peers.
    pub(super) fn is_outlier(self) -> bool {
        matches!(self, Self::Resets | Self::EndsEarly | Self::TinyAnswers)
    }

    /// Returns the name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Silent => "silent",
            Self::Resets => "resets",
            Self::EndsEarly => "ends_early",
            Self::TinyAnswers => "tiny_answers",
        }
    }

    /// Returns whether a connection of this node's own can confirm this reason.
    pub(super) fn is_confirmable(self) -> bool {
        matches!(self, Self::Refused | Self::Unanswered)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "it refuses connections",
            Self::Unanswered => "it does not answer connections",
            Self::Silent => "it is silent with work in flight",
            Self::Resets => "it resets connections that it accepted",
            Self::EndsEarly => "it ends connections without an answer",
            Self::TinyAnswers => "its answers are much smaller than its peers'",
        })
    }
}
