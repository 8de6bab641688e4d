//! Which generation counts.

use std::time::{Duration, SystemTime};

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
