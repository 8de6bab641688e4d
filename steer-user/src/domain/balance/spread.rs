//! From what the loop remembers to shares.

use std::collections::BTreeMap;

use super::{Member, Pool, State, Tier};
use crate::domain::load::WHOLE;

/// Sum of the weights of a table: fine enough for ten thousand members.
pub const SUM: u32 = 1_000_000_000;
/// The part of its weight that a degraded member has.
const DEGRADED: f64 = 0.25;

/// Who gets how much of a table's new flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// By the index of the member, of [`SUM`] together with `nobody`.
    pub members: Vec<u32>,
    /// What is beyond the budgets of all pools: it gets what the end of the chain says.
    pub nobody: u32,
}

impl Shares {
    /// The part of the table that moves from one to another, in parts of [`WHOLE`].
    #[must_use]
    pub fn moved(&self, to: &Self) -> u32 {
        let pairs = self.members.iter().zip(&to.members);
        let differences = pairs.map(|(a, b)| u64::from(a.abs_diff(*b)));
        let sum: u64 = differences.sum::<u64>() + u64::from(self.nobody.abs_diff(to.nobody));
        (sum / 2 * u64::from(WHOLE) / u64::from(SUM)) as u32
    }
}

/// The tiers of a chain with those of their members that serve.
pub(super) fn tiers(state: &State, members: &[Member]) -> BTreeMap<Tier, Vec<usize>> {
    let mut tiers: BTreeMap<Tier, Vec<usize>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        if member.serves() {
            tiers.entry(state.tier(member)).or_default().push(index);
        }
    }
    tiers
}

/// The shares of a table. Without a member that serves all of them are 0.
#[must_use]
pub fn spread(state: &State, pools: &[Pool], members: &[Member]) -> Shares {
    let tiers = tiers(state, members);
    let mut placing = Placing {
        state,
        pools,
        members,
        tiers: &tiers,
        room: pools
            .iter()
            .map(|pool| {
                let now = state.budgets.get(&pool.name).copied();
                f64::from(now.unwrap_or(WHOLE).min(pool.most.unwrap_or(WHOLE)))
            })
            .collect(),
        given: vec![0.0; members.len()],
    };
    if tiers.is_empty() {
        return placing.shares(0.0);
    }
    let whole = f64::from(WHOLE);
    let mut nobody = 0.0;
    let split = placing.split();
    if split.is_empty() {
        nobody += whole - placing.pool(0, whole);
    }
    for (pool, share) in split {
        nobody += share - placing.pool(pool, share);
    }
    placing.shares(nobody)
}

struct Placing<'a> {
    state: &'a State,
    pools: &'a [Pool],
    members: &'a [Member],
    tiers: &'a BTreeMap<Tier, Vec<usize>>,
    /// What pools may still take.
    room: Vec<f64>,
    given: Vec<f64>,
}

impl Placing<'_> {
    /// Where new flows of a split chain begin: the pools of the split that have a member, with their
    /// shares.
    fn split(&self) -> Vec<(usize, f64)> {
        let serves = |pool: usize| self.tiers.keys().any(|tier| tier.0 == pool);
        let part = |(index, pool): (usize, &Pool)| {
            let wanted = pool.split.filter(|_| serves(index))?;
            let now = self.state.split.get(&pool.name).copied();
            Some((index, f64::from(now.unwrap_or(wanted))))
        };
        let parts: Vec<_> = self.pools.iter().enumerate().filter_map(part).collect();
        let sum: f64 = parts.iter().map(|(_, share)| share).sum();
        if sum <= 0.0 {
            return Vec::new();
        }
        let whole = f64::from(WHOLE);
        let scaled = parts.into_iter().map(|(i, share)| (i, share / sum * whole));
        scaled.collect()
    }

    /// Gives an amount to a pool and what follows it, and returns how much found a place.
    fn pool(&mut self, from: usize, amount: f64) -> f64 {
        let mut later = self.tiers.range((from, 0, 0)..);
        let Some(pool) = later.next().map(|(tier, _)| tier.0) else {
            return 0.0;
        };
        let own = self.tiers.range((pool, 0, 0)..(pool + 1, 0, 0));
        let own: Vec<(Tier, Vec<usize>)> = own.map(|(tier, all)| (*tier, all.clone())).collect();
        let taken = amount.min(self.room[pool].max(0.0));
        self.room[pool] -= taken;
        let mut left = taken;
        for (number, (tier, all)) in own.iter().enumerate() {
            let last = number + 1 == own.len();
            let spill = self.state.spill(self.pools, *tier).share;
            let busy = if last && !self.pools[pool].overflow {
                0.0
            } else {
                f64::from(spill) / f64::from(WHOLE)
            };
            let goes = left * busy.max(1.0 - self.warmth(all));
            if !last {
                self.tier(all, left - goes);
                left = goes;
                continue;
            }
            // What nobody behind has room for stays.
            let gone = if goes > 0.0 {
                self.pool(pool + 1, goes)
            } else {
                0.0
            };
            self.room[pool] += gone;
            self.tier(all, left - gone);
        }
        let over = amount - taken;
        let placed = if over > 0.0 {
            self.pool(pool + 1, over)
        } else {
            0.0
        };
        taken + placed
    }

    /// How much of its capacity a tier has while members warm up, from 0 to 1.
    fn warmth(&self, all: &[usize]) -> f64 {
        let sum = |of: &dyn Fn(&Member) -> f64| all.iter().map(|i| of(&self.members[*i])).sum();
        let whole: f64 = sum(&|m| f64::from(m.capacity));
        let warm: f64 = sum(&|m| {
            let warm = self.state.memory(&m.name).warm;
            f64::from(m.capacity) * f64::from(warm) / f64::from(WHOLE)
        });
        if whole > 0.0 { warm / whole } else { 1.0 }
    }

    fn tier(&mut self, all: &[usize], amount: f64) {
        let weights: Vec<f64> = all.iter().map(|i| self.weight(&self.members[*i])).collect();
        let sum: f64 = weights.iter().sum();
        for (index, weight) in all.iter().zip(weights) {
            self.given[*index] += amount * weight / sum;
        }
    }

    fn weight(&self, member: &Member) -> f64 {
        let memory = self.state.memory(&member.name);
        let part = |value: u32| f64::from(value.max(1)) / f64::from(WHOLE);
        let degraded = if member.lossy || memory.slow {
            DEGRADED
        } else {
            1.0
        };
        f64::from(member.capacity) * part(memory.factor) * part(memory.warm) * degraded
    }

    fn shares(self, nobody: f64) -> Shares {
        let part = |given: f64| (given / f64::from(WHOLE) * f64::from(SUM)).round() as u32;
        // Who serves at all gets something, if only a slot to be the second choice of.
        Shares {
            members: self.given.iter().map(|given| part(*given)).collect(),
            nobody: part(nobody),
        }
    }
}
