//! Balance policies: rules by which the new flows of a table are shared among its members.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Cause, Member, Pool, Settings, Shares, State, Ticked,
    simple::{by_capacity, by_utilization},
    spread, tick,
};

/// A rule by which the new flows of a table are shared among its members. The daemon applies one to its tables, and the
/// simulator compares several.
pub trait BalancePolicy: fmt::Debug + Send + Sync {
    /// Makes one step of what the policy remembers of a table.
    fn step(
        &self,
        state: &mut State,
        settings: &Settings,
        pools: &[Pool],
        members: &[Member],
        cause: Cause,
    ) -> Ticked;

    /// Returns the shares of the members in a table's new flows.
    fn shares(&self, state: &State, pools: &[Pool], members: &[Member]) -> Shares;
}

/// Name of a rule in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Capacity, less by use, in bounded steps; nearer and cheaper members first.
    #[default]
    Adaptive,
    /// Capacity alone, in the nearest ring that serves.
    Capacity,
    /// Ratio of flows to utilization in the nearest ring, as in gRPC's weighted round robin.
    Utilization,
}

impl Policy {
    /// Returns whether this is the default policy.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Policy of the daemon: the one that the settings name.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfiguredPolicy;

impl BalancePolicy for ConfiguredPolicy {
    fn step(
        &self,
        state: &mut State,
        settings: &Settings,
        pools: &[Pool],
        members: &[Member],
        cause: Cause,
    ) -> Ticked {
        match settings.policy {
            Policy::Adaptive => tick(state, settings, pools, members, cause),
            Policy::Capacity => by_capacity(state, settings, pools, members, cause),
            Policy::Utilization => by_utilization(state, settings, pools, members, cause),
        }
    }

    fn shares(&self, state: &State, pools: &[Pool], members: &[Member]) -> Shares {
        spread(state, pools, members)
    }
}
