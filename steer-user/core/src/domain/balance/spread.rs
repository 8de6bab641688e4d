//! Conversion of the loop's state to shares.

use std::collections::BTreeMap;

use super::{Member, Pool, State, Tier};
use crate::domain::load::WHOLE;

/// Sum of the weights of a table: fine enough for ten thousand members.
pub const SUM: u32 = 1_000_000_000;
/// Part of its weight that a degraded member keeps.
const DEGRADED: f64 = 0.25;
/// Smallest part of its weight that a failing member keeps.
const LEAST_KEPT: u32 = WHOLE / 20;

/// Distribution of a table's new flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Share by index of the member; together with `nobody` they sum up to [`SUM`].
    pub members: Vec<u32>,
    /// Share beyond the budgets of all pools; it gets the action at the end of the chain.
    pub nobody: u32,
}

impl Shares {
    /// Returns the part of the table that moves between two distributions, in parts of [`WHOLE`].
    #[must_use]
    pub fn moved(&self, to: &Self) -> u32 {
        let pairs = self.members.iter().zip(&to.members);
        let differences = pairs.map(|(a, b)| u64::from(a.abs_diff(*b)));
        let sum: u64 = differences.sum::<u64>() + u64::from(self.nobody.abs_diff(to.nobody));
        (sum / 2 * u64::from(WHOLE) / u64::from(SUM)) as u32
    }
}

/// Returns the tiers of a chain with their members that serve.
pub(super) fn tiers(state: &State, members: &[Member]) -> BTreeMap<Tier, Vec<usize>> {
    let mut tiers: BTreeMap<Tier, Vec<usize>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        if member.serves() {
            tiers.entry(state.tier(member)).or_default().push(index);
        }
    }
    tiers
}

/// Returns the shares of a table. If no member serves, all of them are 0.
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

/// Returns shares by weight, each at most its bound; the excess goes to the others by their
/// weights.
fn bounded(weights: &[f64], bounds: &[f64]) -> Vec<f64> {
    let mut shares = vec![0.0; weights.len()];
    let mut is_bound = vec![false; weights.len()];
    // Each round but the last finds one more share at its bound.
    for _ in 0..=weights.len() {
        let (mut free, mut left) = (0.0, 1.0);
        for ((weight, bound), is_bound) in weights.iter().zip(bounds).zip(&is_bound) {
            if *is_bound {
                left -= bound;
            } else {
                free += weight;
            }
        }
        if free <= 0.0 {
            break;
        }
        let mut any = false;
        for (index, share) in shares.iter_mut().enumerate() {
            if is_bound[index] {
                continue;
            }
            *share = left * weights[index] / free;
            if *share > bounds[index] {
                *share = bounds[index];
                is_bound[index] = true;
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    let sum: f64 = shares.iter().sum();
    // The sum of the bounds may be below 1.
    shares.into_iter().map(|share| share / sum).collect()
}

struct Placing<'a> {
    state: &'a State,
    pools: &'a [Pool],
    members: &'a [Member],
    tiers: &'a BTreeMap<Tier, Vec<usize>>,
    /// Remaining room of each pool.
    room: Vec<f64>,
    given: Vec<f64>,
}

impl Placing<'_> {
    /// Returns the pools of a split chain that have a member, each with the share of new flows that
    /// starts there.
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

    /// Gives an amount to a pool and those after it, and returns how much of it they could take.
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
            // An amount that no later tier can take stays here.
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

    /// Returns the part of its capacity that slow start allows a tier, from 0 to 1.
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
        let members = all.iter().map(|i| &self.members[*i]);
        let weights: Vec<f64> = members.clone().map(|m| self.weight(m)).collect();
        let bounds: Vec<f64> = self.bounds(members);
        for (index, share) in all.iter().zip(bounded(&weights, &bounds)) {
            self.given[*index] += amount * share;
        }
    }

    /// Returns the largest share of a tier that each of its members may have, whatever it reports.
    fn bounds<'m>(&self, members: impl Iterator<Item = &'m Member> + Clone) -> Vec<f64> {
        let sum: f64 = members.clone().map(|m| self.unloaded_weight(m)).sum();
        let bound = |member: &Member| match member.max_gain {
            Some(gain) => self.unloaded_weight(member) / sum * f64::from(gain) / f64::from(WHOLE),
            None => f64::INFINITY,
        };
        members.map(bound).collect()
    }

    /// Returns the weight of a member regardless of its utilization.
    fn unloaded_weight(&self, member: &Member) -> f64 {
        let factor = self.state.memory(&member.name).factor;
        self.weight(member) / (f64::from(factor.max(1)) / f64::from(WHOLE))
    }

    fn weight(&self, member: &Member) -> f64 {
        let memory = self.state.memory(&member.name);
        let kept = f64::from((WHOLE - member.lost.min(WHOLE)).max(LEAST_KEPT)) / f64::from(WHOLE);
        let part = |value: u32| f64::from(value.max(1)) / f64::from(WHOLE);
        let degraded = if member.lossy || memory.slow {
            DEGRADED
        } else {
            1.0
        };
        f64::from(member.capacity) * part(memory.factor) * part(memory.warm) * degraded * kept
    }

    fn shares(self, nobody: f64) -> Shares {
        let part = |given: f64| (given / f64::from(WHOLE) * f64::from(SUM)).round() as u32;
        // Every member that serves gets a share, if only to be the second choice of a slot.
        Shares {
            members: self.given.iter().map(|given| part(*given)).collect(),
            nobody: part(nobody),
        }
    }
}
