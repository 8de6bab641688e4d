//! The active generation.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// The active generation, and a pending one with its deadline. Stored in one small file, which is
/// replaced atomically.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ActiveGeneration {
    /// Confirmed generation, the target of a revert.
    pub confirmed: u64,
    /// Newer generation that is pending confirmation.
    pub pending: Option<PendingConfirmation>,
    /// Fingerprint of the daemon's own configuration file at the last decision: an unchanged file
    /// does not undo that decision.
    pub file: String,
    /// Generations that were not confirmed in time or rolled back: a rollback without a number
    /// skips them.
    #[serde(default)]
    pub reverted: BTreeSet<u64>,
}

/// Outcome of a generation.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Confirmed, or applied without a confirm window.
    #[default]
    Applied,
    /// Pending confirmation.
    Pending,
    /// Not confirmed in time, or rolled back.
    Reverted,
}

impl Outcome {
    /// Returns its name in lists.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Reverted => "reverted",
        }
    }
}

/// A generation pending confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PendingConfirmation {
    /// Number.
    pub number: u64,
    /// Time at which it is reverted.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub until: SystemTime,
    /// Length of its confirm window.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub window: Duration,
}

impl ActiveGeneration {
    /// Creates the state of a confirmed generation.
    #[must_use]
    pub fn confirmed(number: u64, file: String) -> Self {
        Self {
            confirmed: number,
            pending: None,
            file,
            reverted: BTreeSet::new(),
        }
    }

    /// Returns the outcome of a generation.
    #[must_use]
    pub fn outcome(&self, number: u64) -> Outcome {
        if self.pending.as_ref().is_some_and(|t| t.number == number) {
            Outcome::Pending
        } else if self.reverted.contains(&number) {
            Outcome::Reverted
        } else {
            Outcome::Applied
        }
    }

    /// Returns the generation in use.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.pending.as_ref().map_or(self.confirmed, |t| t.number)
    }
}

impl PendingConfirmation {
    /// Returns the remaining time: zero after the deadline, and never more than the window, even if
    /// the clock was changed.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        let left = self.until.duration_since(now).unwrap_or_default();
        left.min(self.window)
    }
}
