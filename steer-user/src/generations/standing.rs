//! Which generation counts.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// Which generation counts, and until when. One small file, replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Standing {
    /// The generation that is gone back to.
    pub confirmed: u64,
    /// A newer one that has to be confirmed.
    pub trial: Option<Trial>,
    /// Fingerprint of the daemon's own configuration file when somebody last decided: one that has
    /// not changed since does not undo what was decided.
    pub file: String,
    /// Generations that nobody confirmed in time, or that somebody went back from: a rollback without a
    /// number passes over them.
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
    /// To be confirmed.
    Pending,
    /// Not confirmed in time, or rolled back from.
    Reverted,
}

impl Outcome {
    /// Its name in lists.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Reverted => "reverted",
        }
    }
}

/// A generation that is taken back unless somebody confirms it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Trial {
    /// Its number.
    pub number: u64,
    /// When it is taken back.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub until: SystemTime,
    /// How long it was given.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub window: Duration,
}

impl Standing {
    /// A generation without a trial.
    #[must_use]
    pub fn confirmed(number: u64, file: String) -> Self {
        Self {
            confirmed: number,
            trial: None,
            file,
            reverted: BTreeSet::new(),
        }
    }

    /// Outcome of a generation.
    #[must_use]
    pub fn outcome(&self, number: u64) -> Outcome {
        if self.trial.as_ref().is_some_and(|t| t.number == number) {
            Outcome::Pending
        } else if self.reverted.contains(&number) {
            Outcome::Reverted
        } else {
            Outcome::Applied
        }
    }

    /// The generation in use.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.trial.as_ref().map_or(self.confirmed, |t| t.number)
    }
}

impl Trial {
    /// What is left of it: nothing once its time has come, and never more than it was given,
    /// whatever was done to the clock.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        let left = self.until.duration_since(now).unwrap_or_default();
        left.min(self.window)
    }
}
