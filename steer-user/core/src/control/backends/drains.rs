//! Drains: the operator wants no new flows on a backend.

use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::control::host::WallClock;

/// A drain as the operator asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Time at which its open flows are ended: reset or moved, as their services say. Without it they may
    /// take as long as they like.
    #[serde(
        default,
        with = "humantime_serde",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<SystemTime>,
}

/// Progress of a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DrainStatus {
    /// "draining": new flows go elsewhere, open ones go on. "gone": its open flows are over, or the
    /// deadline has passed and they were ended.
    pub state: String,
    /// Time at which open flows are ended, if they are.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub until: Option<SystemTime>,
    /// Slots whose open flows still belong to it.
    pub slots: usize,
    /// Entries of its flows in the flow and nat tables, as of the last garbage collection.
    pub flows: usize,
}

/// A drain that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draining {
    pub(crate) since: Instant,
    pub(crate) drain: Drain,
    /// Instant at which its flows are ended.
    pub(crate) deadline: Option<Instant>,
    /// Whether nothing is sent to it any more.
    pub(crate) over: bool,
}

impl Draining {
    /// Begins a drain. A deadline that passed while no daemon ran is due.
    pub(crate) fn start(drain: Drain, clock: WallClock, now: Instant) -> Self {
        let left = drain.until.map(|until| clock.left(until, now));
        Self {
            since: now,
            drain,
            deadline: left.and_then(|left| now.checked_add(left)),
            over: false,
        }
    }
}
