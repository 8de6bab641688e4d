//! The balancing loop: turns loads and nearness into shares of a table's new flows, in bounded
//! steps.
//!
//! The members of a table form tiers: the pools of its chain in order, and within each pool the
//! rings, nearest first. New flows go to the first tier. While that tier is too busy, part of them
//! spills to the next one, and so on. Within a tier, the weight of a member is capacity ·
//! max(floor, 1 − utilization) · slow start, reduced if the member is degraded.

pub mod expected;
mod judge;
mod policy;
mod simple;
mod spread;
#[cfg(test)]
mod tests;
mod tick;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::policy::{BalancePolicy, ConfiguredPolicy, Policy};
pub use self::spread::{SUM, Shares, spread};
pub use self::tick::{Cause, Ticked, tick};
use super::load::WHOLE;

/// Parameters of the loop. Shares are parts of [`WHOLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Rule by which weights change.
    #[serde(default, skip_serializing_if = "Policy::is_default")]
    pub policy: Policy,
    /// Lower bound of the weight that utilization leaves to a member.
    pub floor: u32,
    /// Utilization above which new flows spill outward.
    pub spill_above: u32,
    /// Utilization below which they return.
    pub spill_below: u32,
    /// Largest part of a table that moves in one tick.
    pub max_shift: u32,
    /// Part of its weight that a recovered member regains in each tick, until it has all of it.
    pub warming: u32,
    /// Largest change of each pool's share of a split in a tick.
    pub split_step: u32,
    /// Latency objective in microseconds. Members within it count as equally near, and the cheapest
    /// of them come first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective_us: Option<u32>,
}

/// A pool of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Name of the pool.
    pub name: String,
    /// Share of new flows that starts in this pool, if the chain is split. The shares of all pools
    /// sum up to [`WHOLE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<u32>,
    /// Largest share of the table's new flows that this pool takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
    /// Largest share that its budget of new flows per second allows at the recent rate of new
    /// flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_now: Option<u32>,
    /// Whether its flows spill to the next pool while its last ring is too busy. Otherwise the next
    /// pool serves only if no member of this one does.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub overflow: bool,
}

/// A member of a table, as the loop sees it in this tick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Name of its backend.
    pub name: String,
    /// Index of its pool.
    pub pool: usize,
    /// Ring of nearness.
    pub ring: usize,
    /// Whether new flows may go to it.
    pub healthy: bool,
    /// Capacity relative to the others'.
    pub capacity: u32,
    /// Price relative to the others'. Used only among members that meet the objective.
    pub cost: u32,
    /// Smoothed utilization, in parts of [`WHOLE`]; `None` without a recent report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<u32>,
    /// Time to answer in microseconds: to the first token if known, else one round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_us: Option<u32>,
    /// Time to the first token in microseconds, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_us: Option<u32>,
    /// Whether it loses probes.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub lossy: bool,
    /// Part of its weight that it loses because it fails more often than its peers, in parts of
    /// [`WHOLE`].
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub lost: u32,
    /// Bound of the share that reports may gain a member, as a multiple of the share that its
    /// capacity gives it, in parts of [`WHOLE`]: as much as the node's own measurements confirm.
    /// `None` sets no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gain: Option<u32>,
}

/// A group of equally good members: its pool, and its order within the pool.
pub type Tier = (usize, usize, u32);

impl Member {
    fn serves(&self) -> bool {
        self.healthy && self.capacity > 0
    }
}

/// State of a member that persists from tick to tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Factor of its weight that follows from its utilization, in parts of [`WHOLE`]; the mean of
    /// its tier is about [`WHOLE`].
    pub factor: u32,
    /// Part of its weight that slow start allows, in parts of [`WHOLE`].
    pub warm: u32,
    /// Consecutive ticks in which its factor should have risen, or fallen if negative.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub wants: i8,
    /// Whether it meets the objective of its service, if there is one.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub meets: bool,
    /// Whether it is much slower than its peers.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub slow: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            factor: WHOLE,
            warm: WHOLE,
            wants: 0,
            meets: false,
            slow: false,
        }
    }
}

/// State of the spill-over from a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spill {
    /// Ring of the tier in its pool.
    pub ring: usize,
    /// Price of the tier, if the price sets it apart.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub cost: u32,
    /// Part of its incoming flows that goes on to the next tier, in parts of [`WHOLE`].
    pub share: u32,
    /// Recent average of the part that stayed: its utilization results from that.
    pub stayed: u32,
    /// Capacity at the last tick.
    pub capacity: u64,
    /// Capacity in use at the last tick, in millionths of that unit.
    pub used: u64,
    /// Consecutive ticks in which more should have spilled, or less if negative.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub wants: i8,
}

/// State of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// State by backend; members in their default state are absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, Memory>,
    /// Spill-over by pool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spills: BTreeMap<String, Vec<Spill>>,
    /// Current shares of a split chain's pools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub split: BTreeMap<String, u32>,
    /// Largest shares that budgets of new flows per second allow, by pool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub budgets: BTreeMap<String, u32>,
}

/// Returns whether a tier is full, given the part of its capacity that is hot: from one half on,
/// until it falls below one quarter.
#[must_use]
pub fn is_full(was: bool, hot: u64, all: u64) -> bool {
    hot > 0 && if was { hot * 4 >= all } else { hot * 2 >= all }
}

/// Part of its weight that a member has right after it recovered.
pub const COLD: u32 = WHOLE / 10;

impl State {
    /// Starts slow start of a member that recovered.
    pub fn came_back(&mut self, name: &str) {
        self.members.entry(name.to_owned()).or_default().warm = COLD;
    }

    /// Removes the state of members and pools that are gone.
    pub fn retain(&mut self, member: impl Fn(&str) -> bool, pool: impl Fn(&str) -> bool) {
        self.members.retain(|name, _| member(name));
        self.spills.retain(|name, _| pool(name));
        self.split.retain(|name, _| pool(name));
        self.budgets.retain(|name, _| pool(name));
    }

    /// Returns the part of the state that decides shares: all but counts and averages.
    #[must_use]
    pub fn decides(&self) -> Self {
        let mut state = self.clone();
        state
            .members
            .values_mut()
            .for_each(|memory| memory.wants = 0);
        state
            .members
            .retain(|_, memory| *memory != Memory::default());
        let spills = state.spills.values_mut();
        for spill in spills.flatten() {
            *spill = Spill {
                ring: spill.ring,
                cost: spill.cost,
                share: spill.share,
                ..Spill::default()
            };
        }
        for spills in state.spills.values_mut() {
            spills.retain(|spill| spill.share > 0);
        }
        state.spills.retain(|_, spills| !spills.is_empty());
        state
    }

    /// Returns the state of a member.
    #[must_use]
    pub fn memory(&self, name: &str) -> Memory {
        self.members.get(name).copied().unwrap_or_default()
    }

    /// Returns the tier of a member. Members that meet the objective come first, and among them the
    /// cheapest.
    #[must_use]
    pub fn tier(&self, member: &Member) -> Tier {
        if self.memory(&member.name).meets {
            (member.pool, 0, member.cost)
        } else {
            (member.pool, member.ring + 1, 0)
        }
    }

    fn spill(&self, pools: &[Pool], tier: Tier) -> Spill {
        let of_pool = pools
            .get(tier.0)
            .and_then(|pool| self.spills.get(&pool.name));
        let mut all = of_pool.into_iter().flatten();
        let found = all.find(|spill| (spill.ring, spill.cost) == (tier.1, tier.2));
        found.copied().unwrap_or(Spill {
            ring: tier.1,
            cost: tier.2,
            stayed: WHOLE,
            ..Spill::default()
        })
    }
}
