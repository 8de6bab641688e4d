//! Building of tables: from weights to the choices of slots.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{
    control::balancer::candidates::Candidates,
    digest::sha256,
    domain::{
        balance::{self, Pool, Shares, State, Tier},
        maglev::{self, Choice, Weighted},
    },
    journal::Input,
};

/// Seed of the tables, the same on all nodes so that they build the same ones.
const SEED: u64 = 0x5745_4552;
/// Id of the undistributed share while a table is built.
const NOBODY: u16 = u16::MAX;
/// Name that no backend has.
const NOBODYS_NAME: &str = "\u{10ffff}";

/// Member as a table is built of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member<'a> {
    pub(crate) id: u16,
    pub(crate) name: &'a str,
    pub(crate) tier: Tier,
    pub(crate) healthy: bool,
    pub(crate) capacity: u32,
    /// Its share of the table.
    pub(crate) weight: u32,
    /// Whether so much of its tier is hot that its second choice is better sought behind it.
    pub(crate) full: bool,
    /// Whether others may send what they cannot take to its tier: the pool is the same, or may be
    /// spilt to, and has no budget.
    pub(crate) open: bool,
}

impl Candidates {
    /// The members with their shares, and the undistributed share. `were_full` are the tiers that were full
    /// before.
    pub(crate) fn weighted(
        &self,
        state: &State,
        shares: &Shares,
        were_full: &BTreeSet<Tier>,
    ) -> (Vec<Member<'_>>, u32) {
        let full = self.full(state, were_full);
        let weighted = self
            .members
            .iter()
            .zip(&self.ids)
            .zip(shares.members.iter().copied());
        let members = weighted.map(|((member, id), weight)| {
            let tier = state.tier(member);
            Member {
                id: *id,
                name: &member.name,
                tier,
                healthy: member.healthy,
                capacity: member.capacity,
                weight,
                full: full.contains(&tier),
                open: self.is_open(member.pool),
            }
        });
        (members.collect(), shares.nobody)
    }

    /// The tiers that are too busy for new flows as a whole.
    pub(crate) fn full(&self, state: &State, before: &BTreeSet<Tier>) -> BTreeSet<Tier> {
        let mut tiers: BTreeMap<Tier, (u64, u64)> = BTreeMap::new();
        for (member, hot) in self.members.iter().zip(&self.hot) {
            if member.healthy && member.capacity > 0 {
                let (all, of_hot) = tiers.entry(state.tier(member)).or_default();
                *all += u64::from(member.capacity);
                *of_hot += if *hot { u64::from(member.capacity) } else { 0 };
            }
        }
        let is_full = |(tier, (all, hot)): (Tier, (u64, u64))| {
            balance::is_full(before.contains(&tier), hot, all).then_some(tier)
        };
        tiers.into_iter().filter_map(is_full).collect()
    }

    /// Returns whether what a pool before this one cannot take may go to it at once.
    fn is_open(&self, pool: usize) -> bool {
        let has_room = |p: &Pool| p.most.is_none() && p.most_now.is_none();
        let before = pool.checked_sub(1).and_then(|p| self.pools.get(p));
        self.pools.get(pool).is_some_and(has_room) && before.is_none_or(|p| p.overflow)
    }
}

/// The table of `len` slots; `None` if no member is healthy.
///
/// A member that is alone has no second choice; it gets one of the next tier, so that its flows have
/// somewhere to go in the packet after its death. So do members whose tier is full: another one of it
/// would be no better. First choices are moved by the slow loop only.
pub(crate) fn table(members: &[Member<'_>], undistributed: u32, len: usize) -> Option<Vec<Choice>> {
    let chosen: Vec<&Member<'_>> = members.iter().filter(|m| m.weight > 0).collect();
    if chosen.is_empty() {
        return None;
    }
    let weighted = chosen.iter().map(|member| Weighted {
        id: member.id,
        name: member.name,
        weight: member.weight,
    });
    let mut all: Vec<Weighted<'_>> = weighted.collect();
    if undistributed > 0 {
        all.push(Weighted {
            id: NOBODY,
            name: NOBODYS_NAME,
            weight: undistributed,
        });
    }
    let mut table = maglev::build(&all, len, SEED);
    if chosen.len() == 1 {
        let behind = behind(members);
        if !behind.is_empty() {
            let behind = maglev::build(&behind, len, SEED);
            for (slot, behind) in table.iter_mut().zip(behind) {
                slot.second = behind.first;
            }
        }
    }
    overflow(&mut table, members);
    for slot in &mut table {
        if slot.first == NOBODY {
            *slot = Choice::default();
        } else if slot.second == NOBODY {
            slot.second = 0;
        }
    }
    Some(table)
}

/// Gives the slots of full tiers second choices in the next tier that has room, or, where all are full, in
/// the next. The last one has none behind it: its second choices are before it, where what spilt came
/// from.
fn overflow(table: &mut [Choice], members: &[Member<'_>]) {
    let full: BTreeSet<Tier> = members.iter().filter(|m| m.full).map(|m| m.tier).collect();
    for tier in full {
        let usable = || {
            let usable = members.iter().filter(|m| m.healthy && m.capacity > 0);
            usable.filter(|m| m.open || m.tier.0 == tier.0)
        };
        let behind = || usable().filter(|m| m.tier > tier);
        let with_room = behind().filter(|m| !m.full).map(|m| m.tier).min();
        let next = with_room.or_else(|| behind().map(|m| m.tier).min());
        let before = || usable().filter(|m| m.tier < tier).map(|m| m.tier).max();
        let Some(next) = next.or_else(before) else {
            continue;
        };
        let own: HashSet<u16> = members
            .iter()
            .filter(|m| m.tier == tier)
            .map(|m| m.id)
            .collect();
        let behind: Vec<Weighted<'_>> = usable()
            .filter(|m| m.tier == next)
            .map(|m| Weighted {
                id: m.id,
                name: m.name,
                weight: m.capacity,
            })
            .collect();
        let behind = maglev::build(&behind, table.len(), SEED);
        for (slot, behind) in table.iter_mut().zip(behind) {
            if own.contains(&slot.first) {
                slot.second = behind.first;
            }
        }
    }
}

/// The first tier of those that were not chosen.
fn behind<'a>(members: &[Member<'a>]) -> Vec<Weighted<'a>> {
    let usable = || {
        let rest = members.iter().filter(|m| m.weight == 0);
        rest.filter(|m| m.healthy && m.capacity > 0)
    };
    let first = usable().map(|m| m.tier).min();
    usable()
        .filter(|m| Some(m.tier) == first)
        .map(|m| Weighted {
            id: m.id,
            name: m.name,
            weight: m.capacity,
        })
        .collect()
}

/// Candidates as inputs for the journal, each with its id.
pub(crate) fn inputs(candidates: &Candidates, members: &[Member<'_>]) -> Vec<(u16, Input)> {
    let mut inputs = Vec::new();
    for (member, seen) in members.iter().zip(&candidates.members) {
        let (pool, place, cost) = member.tier;
        let input = Input {
            backend: member.name.to_owned(),
            pool,
            ring: seen.ring,
            cost: (place == 0).then_some(cost),
            healthy: member.healthy,
            capacity: member.capacity,
            weight: member.weight,
            full: member.full,
            open: member.open && member.tier.0 > 0,
        };
        inputs.push((member.id, input));
    }
    inputs
}

/// A digest of a table that depends on backends' names and not on members' ids.
pub(crate) fn digest(table: &[Choice], inputs: &[(u16, Input)]) -> String {
    let mut names: Vec<_> = inputs
        .iter()
        .map(|(id, i)| (i.backend.as_str(), *id))
        .collect();
    names.sort_unstable();
    let ranks: HashMap<u16, u16> = names.iter().map(|(_, id)| *id).zip(1..).collect();
    let rank = |id: u16| ranks.get(&id).copied().unwrap_or(0).to_be_bytes();
    let mut text = Vec::with_capacity(4 * table.len());
    for choice in table {
        text.extend(rank(choice.first));
        text.extend(rank(choice.second));
    }
    let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
    sha256(&[names.join("\n").as_bytes(), b"\n\n", &text])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::balance::SUM;

    fn member(id: u16, pool: usize, ring: usize, healthy: bool) -> balance::Member {
        balance::Member {
            name: ["", "a", "b", "c", "d"][usize::from(id)].to_owned(),
            pool,
            ring,
            healthy,
            capacity: 1,
            ..balance::Member::default()
        }
    }

    fn candidates(members: &[(u16, usize, usize, bool)]) -> Candidates {
        let pool = |name: &str| Pool {
            name: name.to_owned(),
            ..Pool::default()
        };
        Candidates {
            pools: vec![pool("near"), pool("far")],
            members: members.iter().map(|m| member(m.0, m.1, m.2, m.3)).collect(),
            ids: members.iter().map(|m| m.0).collect(),
            hot: vec![false; members.len()],
        }
    }

    fn shares(of: &Candidates, state: &State) -> Shares {
        balance::spread(state, &of.pools, &of.members)
    }

    fn firsts_and_seconds(of: &Candidates) -> (Vec<u16>, Vec<u16>) {
        let state = State::default();
        let (members, undistributed) = of.weighted(&state, &shares(of, &state), &BTreeSet::new());
        let table = table(&members, undistributed, 101).unwrap_or_default();
        let distinct = |pick: fn(&Choice) -> u16| {
            let mut all: Vec<u16> = table.iter().map(pick).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        (distinct(|c| c.first), distinct(|c| c.second))
    }

    #[test]
    fn the_first_pool_with_a_healthy_member_serves() {
        let chain = |near, far| candidates(&[(1, 0, 0, near), (2, 0, 1, near), (3, 1, 0, far)]);
        assert_eq!(firsts_and_seconds(&chain(true, true)).0, [1]);
        assert_eq!(firsts_and_seconds(&chain(false, true)).0, [3]);
        assert!(firsts_and_seconds(&chain(false, false)).0.is_empty());
    }

    #[test]
    fn a_lone_member_has_the_next_ring_or_pool_behind_it() {
        let near = [
            (1, 0, 0, true),
            (2, 0, 1, true),
            (3, 0, 1, true),
            (4, 1, 0, true),
        ];
        assert_eq!(
            firsts_and_seconds(&candidates(&near)),
            (vec![1], vec![2, 3])
        );
        let near = [(1, 0, 0, true), (2, 0, 1, false), (4, 1, 0, true)];
        assert_eq!(firsts_and_seconds(&candidates(&near)), (vec![1], vec![4]));
        let near = [(1, 0, 0, true), (2, 0, 1, false)];
        assert_eq!(firsts_and_seconds(&candidates(&near)), (vec![1], vec![0]));
    }

    #[test]
    fn nobodys_slots_lead_nowhere() {
        let mut chain = candidates(&[(1, 0, 0, true), (2, 0, 0, true)]);
        chain.pools[0].most = Some(crate::domain::load::WHOLE / 2);
        let state = State::default();
        let (members, undistributed) =
            chain.weighted(&state, &shares(&chain, &state), &BTreeSet::new());
        assert_eq!(undistributed, SUM / 2);
        let table = table(&members, undistributed, 1021).unwrap();
        let none = table.iter().filter(|c| c.first == 0).count();
        assert!((500..522).contains(&none), "{none}");
        let named = table.iter().filter(|c| c.first == 0 && c.second != 0);
        assert_eq!(named.count(), 0);
        assert!(table.iter().all(|c| c.second <= 2));
    }

    #[test]
    fn a_full_tier_has_its_second_choices_behind_it_and_no_first_choice_moves() {
        let near_and_far = [
            (1, 0, 0, true),
            (2, 0, 0, true),
            (3, 0, 1, true),
            (4, 1, 0, true),
        ];
        let mut chain = candidates(&near_and_far);
        let state = State::default();
        let of = |chain: &Candidates, before: &BTreeSet<Tier>| {
            let (members, undistributed) = chain.weighted(&state, &shares(chain, &state), before);
            let full: BTreeSet<Tier> = members.iter().filter(|m| m.full).map(|m| m.tier).collect();
            (table(&members, undistributed, 1021).unwrap(), full)
        };
        let (cool, full) = of(&chain, &BTreeSet::new());
        assert!(full.is_empty());
        assert!(cool.iter().all(|c| c.first <= 2 && c.second <= 2));
        chain.hot[0] = true;
        let (busy, full) = of(&chain, &full);
        assert_eq!(full.len(), 1, "half of it is hot");
        assert!(busy.iter().all(|c| c.second == 3));
        assert!(cool.iter().zip(&busy).all(|(a, b)| a.first == b.first));
        // Behind the far ring there is another pool, which nothing spills to.
        chain.hot[2] = true;
        let (both, full) = of(&chain, &full);
        assert!(both.iter().all(|c| c.second == 3));
        assert_eq!(full.len(), 2);
        // What has spilt has its second choices where it came from.
        let spill = balance::Spill {
            ring: 1,
            share: crate::domain::load::WHOLE / 4,
            ..balance::Spill::default()
        };
        let spilt = State {
            spills: [("near".to_owned(), vec![spill])].into(),
            ..State::default()
        };
        let (members, undistributed) = chain.weighted(&spilt, &shares(&chain, &spilt), &full);
        let spilt = table(&members, undistributed, 1021).unwrap();
        assert!(spilt.iter().any(|c| c.first == 3));
        assert!(spilt.iter().all(|c| (c.first == 3) == (c.second != 3)));
        chain.hot = vec![false; 4];
        assert_eq!(of(&chain, &full), (cool, BTreeSet::new()));
        // With a pool that overflows.
        chain.pools[0].overflow = true;
        (chain.hot[0], chain.hot[1], chain.hot[2]) = (true, true, true);
        let (all, _) = of(&chain, &BTreeSet::new());
        assert!(all.iter().all(|c| c.second == 4));
        chain.pools[1].most = Some(5);
        let (bounded, _) = of(&chain, &BTreeSet::new());
        assert!(bounded.iter().all(|c| c.second == 3), "it has a budget");
    }
}
