//! Rules of judgement other than rise and fall.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::load::HotBounds;

/// Remaining uncertainty about a backend whose probes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// None: the backend reported that it does not serve.
    None,
    /// Probes time out, possibly because of the network.
    Silent,
    /// The backend answers, but its answers cannot be trusted.
    Untrusted,
}

/// Rules for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Bounds for the hot bit.
    pub hot: HotBounds,
    /// Half-life of the flap-damping penalty; zero disables damping.
    #[serde(with = "humantime_serde")]
    pub flap_half_life: Duration,
}
