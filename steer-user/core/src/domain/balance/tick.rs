//! One tick of the balancing loop.

use std::collections::BTreeMap;

use super::{
    Member, Memory, Pool, Settings, Shares, Spill, State, Tier, judge, spread, spread::tiers,
};
use crate::domain::load::WHOLE;

/// Relative change of a member's factor below which nothing moves.
const DEADBAND: f64 = 0.05;
/// Consecutive ticks in which a change must be wanted before it happens.
const DWELL: i8 = 2;
/// Weight of the current value in the average of the part that stayed.
const FOLLOW: f64 = 0.2;
/// Largest part that spills out of a tier that still serves.
const MOST_SPILLED: f64 = 0.95;

/// Reason for a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The interval elapsed.
    Time,
    /// Members were lost: their flows need another place now.
    Loss,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Time => "time",
            Self::Loss => "loss",
        })
    }
}

/// Result of a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticked {
    /// Part of the table that moves, in parts of [`WHOLE`].
    pub moved: u32,
    /// Whether no member has a recent report, so that weights stay unchanged.
    pub frozen: bool,
}

/// Runs one tick.
///
/// With [`Cause::Time`], at most `max_shift` of the table moves. With [`Cause::Loss`], whatever the
/// remaining members cannot carry spills at once.
pub fn tick(
    state: &mut State,
    settings: &Settings,
    pools: &[Pool],
    members: &[Member],
    cause: Cause,
) -> Ticked {
    let fresh = members.iter().any(|m| m.serves() && m.load.is_some());
    let before = spread(state, pools, members);
    let mut wanted = state.clone();
    if cause == Cause::Time {
        judge::judge(&mut wanted, settings, pools, members);
    }
    let tiers = tiers(&wanted, members);
    for (tier, all) in &tiers {
        let loads = loads(members, all);
        if cause == Cause::Time {
            for index in all {
                let warm = wanted.memory(&members[*index].name).warm;
                let warmer = warm.saturating_add(settings.warming).min(WHOLE);
                entry(&mut wanted, &members[*index].name).warm = warmer;
            }
        }
        let Some(loads) = loads else { continue };
        if cause == Cause::Time {
            factors(&mut wanted, settings, members, all, &loads);
        }
        let spill = spilled(
            wanted.spill(pools, *tier),
            settings,
            members,
            all,
            &loads,
            cause,
        );
        put(&mut wanted, pools, *tier, spill);
    }
    if cause == Cause::Time {
        split(&mut wanted, settings, pools);
        // Budgets apply at once, however much they move.
        wanted.budgets = pools
            .iter()
            .filter_map(|pool| Some((pool.name.clone(), pool.most_now?)))
            .collect();
        // A member that does not serve starts over with the default factor.
        for member in members.iter().filter(|m| !m.serves()) {
            if let Some(memory) = wanted.members.get_mut(&member.name) {
                (memory.factor, memory.wants) = (WHOLE, 0);
            }
        }
    }
    let mut next = wanted.clone();
    if cause == Cause::Time {
        bound(state, &wanted, &mut next, settings, pools, members, &before);
    }
    next.members
        .retain(|_, memory| *memory != Memory::default());
    let moved = before.moved(&spread(&next, pools, members));
    *state = next;
    Ticked {
        moved,
        frozen: !fresh,
    }
}

pub(super) fn entry<'s>(state: &'s mut State, name: &str) -> &'s mut Memory {
    state.members.entry(name.to_owned()).or_default()
}

/// Returns the loads of a tier's members. A member without a report gets the average of the others;
/// if none has one, there are no loads.
fn loads(members: &[Member], all: &[usize]) -> Option<Vec<f64>> {
    let known = all.iter().filter_map(|i| {
        let member = &members[*i];
        let load = f64::from(member.load?) / f64::from(WHOLE);
        Some((f64::from(member.capacity), load))
    });
    let (capacity, used) = known.fold((0.0, 0.0), |(c, u), (capacity, load)| {
        (c + capacity, u + capacity * load)
    });
    if capacity <= 0.0 {
        return None;
    }
    let mean = used / capacity;
    let of = |i: &usize| {
        let load = members[*i].load;
        load.map_or(mean, |load| f64::from(load) / f64::from(WHOLE))
    };
    Some(all.iter().map(of).collect())
}

/// Moves the factors of a tier towards max(floor, 1 − utilization), relative to the mean of the
/// tier.
fn factors(
    state: &mut State,
    settings: &Settings,
    members: &[Member],
    all: &[usize],
    loads: &[f64],
) {
    let floor = f64::from(settings.floor) / f64::from(WHOLE);
    let raw: Vec<f64> = loads.iter().map(|load| (1.0 - load).max(floor)).collect();
    let capacity = |i: &usize| f64::from(members[*i].capacity);
    let sum: f64 = all.iter().map(capacity).sum();
    let weighted = |values: &[f64]| -> f64 {
        let products = all.iter().zip(values).map(|(i, value)| capacity(i) * value);
        products.sum::<f64>() / sum
    };
    let (mean, load) = (weighted(&raw), weighted(loads));
    // The step shrinks as utilization grows: near the limit a small move has a large effect, and
    // full steps would oscillate.
    let gain = ((1.0 - load) / 2.0).clamp(0.05, 0.5);
    for (index, raw) in all.iter().zip(raw) {
        let name = &members[*index].name;
        let mut memory = state.memory(name);
        let now = f64::from(memory.factor) / f64::from(WHOLE);
        let target = raw / mean;
        let off = (target - now) / now;
        memory.wants = if off.abs() < DEADBAND {
            0
        } else {
            dwell(memory.wants, off > 0.0)
        };
        if memory.wants.abs() >= DWELL {
            let next = now + gain * (target - now);
            memory.factor = (next * f64::from(WHOLE)).round().max(1.0) as u32;
        }
        *entry(state, name) = memory;
    }
}

/// Counts consecutive ticks that want a change in the same direction.
fn dwell(wants: i8, more: bool) -> i8 {
    match more {
        true => wants.max(0).saturating_add(1).min(DWELL),
        false => wants.min(0).saturating_sub(1).max(-DWELL),
    }
}

/// Returns the part of its incoming flows that a tier passes on to the next one.
fn spilled(
    mut spill: Spill,
    settings: &Settings,
    members: &[Member],
    all: &[usize],
    loads: &[f64],
    cause: Cause,
) -> Spill {
    let part = |value: u32| f64::from(value) / f64::from(WHOLE);
    let share = |value: f64| (value * f64::from(WHOLE)).round() as u32;
    let capacity: u64 = all.iter().map(|i| u64::from(members[*i].capacity)).sum();
    // A member that reports more than full utilization counts as its busiest peer, or as full.
    let claimed = |own: usize| {
        let others = loads.iter().enumerate().filter(|(index, _)| *index != own);
        let busiest = others.map(|(_, load)| *load).fold(1.0, f64::max);
        if loads.len() > 2 {
            loads[own].min(busiest)
        } else {
            loads[own]
        }
    };
    let used: f64 = all
        .iter()
        .enumerate()
        .map(|(own, i)| f64::from(members[*i].capacity) * claimed(own))
        .sum();
    let (above, below) = (part(settings.spill_above), part(settings.spill_below));
    let aim = f64::midpoint(above, below);
    if cause == Cause::Time {
        let stays = 1.0 - part(spill.share);
        spill.stayed = share(part(spill.stayed) + FOLLOW * (stays - part(spill.stayed)));
    }
    let stayed = part(spill.stayed).max(1.0 - MOST_SPILLED);
    match cause {
        Cause::Time => {
            let load = used / capacity as f64;
            // Demand on the tier in units of its capacity: its utilization results from the part
            // that stayed.
            let demand = load / stayed;
            spill.wants = if load > above {
                dwell(spill.wants, true)
            } else if load < below && spill.share > 0 {
                dwell(spill.wants, false)
            } else {
                0
            };
            if spill.wants.abs() >= DWELL {
                let target = if demand > 0.0 {
                    1.0 - aim / demand
                } else {
                    0.0
                };
                let target = share(target.clamp(0.0, MOST_SPILLED));
                spill.share = if spill.wants > 0 {
                    target.max(spill.share)
                } else {
                    target.min(spill.share)
                };
            }
            spill.capacity = capacity;
            spill.used = share_of(used);
        }
        Cause::Loss if capacity < spill.capacity => {
            let demand = spill.used as f64 / f64::from(WHOLE) / stayed / capacity as f64;
            if demand > above {
                let target = share((1.0 - aim / demand).clamp(0.0, MOST_SPILLED));
                spill.share = target.max(spill.share);
            }
        }
        Cause::Loss => {}
    }
    spill
}

/// Returns an amount of capacity in millionths of its unit, so that small amounts stay distinct.
fn share_of(amount: f64) -> u64 {
    (amount * f64::from(WHOLE)).round() as u64
}

fn put(state: &mut State, pools: &[Pool], tier: Tier, spill: Spill) {
    let Some(pool) = pools.get(tier.0) else {
        return;
    };
    let all = state.spills.entry(pool.name.clone()).or_default();
    all.retain(|other| (other.ring, other.cost) != (spill.ring, spill.cost));
    all.push(spill);
    all.sort_by_key(|spill| (spill.ring, spill.cost));
}

/// Moves the shares of a split towards their targets.
fn split(state: &mut State, settings: &Settings, pools: &[Pool]) {
    let wanted: BTreeMap<&String, u32> = pools
        .iter()
        .filter_map(|pool| Some((&pool.name, pool.split?)))
        .collect();
    if wanted.is_empty() {
        state.split.clear();
        return;
    }
    let begun = !state.split.is_empty();
    state.split.retain(|name, _| wanted.contains_key(name));
    for (name, share) in wanted {
        let now = state.split.get(name).copied();
        // A pool that joins a running split starts at zero; a new split has its target shares at
        // once.
        let now = now.unwrap_or(if begun { 0 } else { share });
        let step = settings.split_step;
        let next = share.clamp(now.saturating_sub(step), now.saturating_add(step));
        state.split.insert(name.clone(), next);
    }
}

/// Limits a step towards the target so that at most `max_shift` of the table moves.
fn bound(
    from: &State,
    wanted: &State,
    next: &mut State,
    settings: &Settings,
    pools: &[Pool],
    members: &[Member],
    before: &Shares,
) {
    let mut part = 1.0;
    for _ in 0..24 {
        let moved = before.moved(&spread(next, pools, members));
        if moved <= settings.max_shift {
            return;
        }
        // The relation is nearly linear, so the first attempt is nearly exact.
        part *= (f64::from(settings.max_shift) / f64::from(moved)).min(0.98);
        *next = between(from, wanted, pools, part);
    }
    *next = between(from, wanted, pools, 0.0);
}

fn between(from: &State, wanted: &State, pools: &[Pool], part: f64) -> State {
    let mix = |a: u32, b: u32| {
        let (a, b) = (f64::from(a), f64::from(b));
        (a + part * (b - a)).round() as u32
    };
    let mut next = wanted.clone();
    for (name, memory) in &mut next.members {
        let old = from.memory(name);
        memory.factor = mix(old.factor, memory.factor);
        memory.warm = mix(old.warm, memory.warm);
    }
    for (index, pool) in pools.iter().enumerate() {
        for spill in next.spills.get_mut(&pool.name).into_iter().flatten() {
            let old = from.spill(pools, (index, spill.ring, spill.cost));
            spill.share = mix(old.share, spill.share);
        }
        if let (Some(old), Some(new)) = (from.split.get(&pool.name), next.split.get_mut(&pool.name))
        {
            *new = mix(*old, *new);
        }
    }
    next
}
