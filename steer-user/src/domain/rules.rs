//! By what a backend is judged, besides rise and fall.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::load::HotBounds;

/// What is left open of a backend whose probes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// Nothing: it said that it does not serve.
    None,
    /// Nobody answers, which may be the network's fault.
    Silent,
    /// It answers, and what it says cannot be believed.
    Untrusted,
}

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// When it is hot.
    pub hot: HotBounds,
    /// Half-life of the penalty for dying; zero means that there is none.
    #[serde(with = "humantime_serde")]
    pub flap_half_life: Duration,
}
