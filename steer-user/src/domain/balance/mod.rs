//! The slow loop: from loads and nearness to shares of a table's new flows, in bounded steps.
//!
//! A table's members stand in tiers: the pools of its chain one behind the other, and in each pool the
//! rings, the nearest first. New flows go to the first tier. While it is too busy a part of them spills
//! to the next one, and so on. Within a tier a member's weight is
//! capacity · max(floor, 1 − use) · slow start, less if it is degraded.

mod judge;
mod policy;
mod spread;
#[cfg(test)]
mod tests;
mod tick;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::policy::{Adaptive, BalancePolicy};
pub use self::spread::{SUM, Shares, spread};
pub use self::tick::{Cause, Ticked, tick};
use super::load::WHOLE;

/// How the slow loop goes about it. Shares are parts of [`WHOLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The least that a member's weight comes down to by its use.
    pub floor: u32,
    /// Above this use new flows spill outward.
    pub spill_above: u32,
    /// Below this use they return.
    pub spill_below: u32,
    /// The most of a table that moves in one tick.
    pub max_shift: u32,
    /// What a member that came back gains in each tick until it has its whole weight.
    pub warming: u32,
    /// What each pool of a split may gain or lose in a tick.
    pub split_step: u32,
    /// Members that answer within so many microseconds are as near as each other: among them, those
    /// that cost least come first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective_us: Option<u32>,
}

/// A pool of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The share of new flows that begins in it, if the chain is split. Those of all pools are
    /// [`WHOLE`] together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<u32>,
    /// The most that it takes of the table's new flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
    /// The same, as the number of new flows of late and a budget of so many in a second make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_now: Option<u32>,
    /// Whether its flows spill to the next pool while its last ring is too busy. Otherwise the next pool
    /// serves only where this one has nobody.
    #[serde(default, skip_serializing_if = "is_false")]
    pub overflow: bool,
}

/// A member of a table, as the loop sees it now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its backend's name.
    pub name: String,
    /// The index of its pool.
    pub pool: usize,
    /// Its ring of nearness.
    pub ring: usize,
    /// Whether new flows may go to it.
    pub healthy: bool,
    /// Its capacity relative to the others'.
    pub capacity: u32,
    /// Its price relative to the others'. It counts only among those that meet the objective.
    pub cost: u32,
    /// Its smoothed use, in parts of [`WHOLE`]; `None` if there is no report that is new enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<u32>,
    /// How long it takes to answer, in microseconds: to the first token where that is known, else one
    /// round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers_us: Option<u32>,
    /// Its time to the first token, in microseconds, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_us: Option<u32>,
    /// Whether it loses probes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lossy: bool,
    /// The part of its weight that it loses for failing more often than its peers, in parts of [`WHOLE`].
    #[serde(default, skip_serializing_if = "is_free")]
    pub lost: u32,
    /// So many times the share that its capacity gives it, in parts of [`WHOLE`], are the most that its reports may
    /// gain it: as much as the node's own measurements bear out. `None` sets no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gain: Option<u32>,
}

/// A group of members that are as good as each other: its pool, and its order within.
pub type Tier = (usize, usize, u32);

impl Member {
    fn serves(&self) -> bool {
        self.healthy && self.capacity > 0
    }
}

/// What the loop remembers of a member from tick to tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The factor that its use has on its weight, in parts of [`WHOLE`]; the mean of its tier is about
    /// [`WHOLE`].
    pub factor: u32,
    /// How much of its weight it has while it warms up, in parts of [`WHOLE`].
    pub warm: u32,
    /// Ticks in a row in which its factor should have risen, or fallen if negative.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wants: i8,
    /// Whether it meets the objective of its service, if that has one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub meets: bool,
    /// Whether it is much slower than its peers.
    #[serde(default, skip_serializing_if = "is_false")]
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

/// What the loop remembers of the way out of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spill {
    /// The tier's place in its pool.
    pub ring: usize,
    /// The price of the tier, where that is what sets it apart.
    #[serde(default, skip_serializing_if = "is_free")]
    pub cost: u32,
    /// The part of what comes to it that goes on to the next, in parts of [`WHOLE`].
    pub share: u32,
    /// What has stayed on average of late: that is what its use comes of.
    pub stayed: u32,
    /// Capacity at the last tick.
    pub capacity: u64,
    /// Capacity in use at the last tick, in millionths of that unit.
    pub used: u64,
    /// Ticks in a row in which more should have spilled, or less if negative.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wants: i8,
}

/// What the loop remembers of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// By backend; those that are as usual are not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, Memory>,
    /// By pool.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spills: BTreeMap<String, Vec<Spill>>,
    /// The shares of a split chain's pools as they are now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub split: BTreeMap<String, u32>,
    /// The most that pools with a budget in a second take.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub budgets: BTreeMap<String, u32>,
}

/// Whether a tier is full that was or was not before, by how much of its capacity is hot: from a half on,
/// until it is less than a quarter.
#[must_use]
pub fn is_full(was: bool, hot: u64, all: u64) -> bool {
    hot > 0 && if was { hot * 4 >= all } else { hot * 2 >= all }
}

/// The part of its weight that a member has that just came back.
pub const COLD: u32 = WHOLE / 10;

impl State {
    /// Notes that a member came back: it begins with a part of its weight.
    pub fn came_back(&mut self, name: &str) {
        self.members.entry(name.to_owned()).or_default().warm = COLD;
    }

    /// Forgets what is no more.
    pub fn retain(&mut self, member: impl Fn(&str) -> bool, pool: impl Fn(&str) -> bool) {
        self.members.retain(|name, _| member(name));
        self.spills.retain(|name, _| pool(name));
        self.split.retain(|name, _| pool(name));
        self.budgets.retain(|name, _| pool(name));
    }

    /// What of it shares depend on: all but what only counts and averages.
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

    /// What it remembers of a member.
    #[must_use]
    pub fn memory(&self, name: &str) -> Memory {
        self.members.get(name).copied().unwrap_or_default()
    }

    /// The tier of a member. What meets the objective is nearest, and among that what costs least.
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(value: &i8) -> bool {
    *value == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_free(value: &u32) -> bool {
    *value == 0
}
