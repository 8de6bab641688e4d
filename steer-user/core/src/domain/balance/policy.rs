//! Balance policies: rules by which the new flows of a table are shared among its members.

use std::fmt;

use super::{Cause, Member, Pool, Settings, Shares, State, Ticked, spread, tick};

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

    /// Shares of the members in a table's new flows.
    fn shares(&self, state: &State, pools: &[Pool], members: &[Member]) -> Shares;
}

/// Policy of the daemon: by capacity, less by use, in bounded steps; nearer and cheaper members first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Adaptive;

impl BalancePolicy for Adaptive {
    fn step(
        &self,
        state: &mut State,
        settings: &Settings,
        pools: &[Pool],
        members: &[Member],
        cause: Cause,
    ) -> Ticked {
        tick(state, settings, pools, members, cause)
    }

    fn shares(&self, state: &State, pools: &[Pool], members: &[Member]) -> Shares {
        spread(state, pools, members)
    }
}
