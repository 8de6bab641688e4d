//! From shares to a table.

use crate::domain::{
    balance::{self, Pool, State, Tier, spread},
    maglev::{self, Choice, Weighted},
};

/// Seed of the tables; nodes that shall build the same ones share it.
const SEED: u64 = 0x5745_4552;
/// Stands for nobody while a table is built.
const NOBODY: u16 = u16::MAX;
/// A name that no backend has.
const NOBODYS_NAME: &str = "\u{10ffff}";

/// Who new flows may go to: a chain of pools, and what the slow loop sees of their members.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    pub(super) pools: Vec<Pool>,
    pub(super) members: Vec<balance::Member>,
    /// Numbers of the members.
    pub(super) ids: Vec<u16>,
}

/// A member as a table is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member<'a> {
    pub(super) id: u16,
    pub(super) name: &'a str,
    pub(super) tier: Tier,
    pub(super) healthy: bool,
    pub(super) capacity: u32,
    /// Its share.
    pub(super) weight: u32,
}

impl Candidates {
    /// The members with their shares, and the share of nobody.
    pub(super) fn weighed(&self, state: &State) -> (Vec<Member<'_>>, u32) {
        let shares = spread(state, &self.pools, &self.members);
        let weighed = self.members.iter().zip(&self.ids).zip(shares.members);
        let members = weighed.map(|((member, id), weight)| Member {
            id: *id,
            name: &member.name,
            tier: state.tier(member),
            healthy: member.healthy,
            capacity: member.capacity,
            weight,
        });
        (members.collect(), shares.nobody)
    }
}

/// The table of `len` slots; `None` if no member is healthy.
///
/// A member that is alone has no second choice; it gets one of the next tier, so that its flows have
/// somewhere to go in the packet after its death.
pub(super) fn table(members: &[Member<'_>], nobody: u32, len: usize) -> Option<Vec<Choice>> {
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
    if nobody > 0 {
        all.push(Weighted {
            id: NOBODY,
            name: NOBODYS_NAME,
            weight: nobody,
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
    for slot in &mut table {
        if slot.first == NOBODY {
            *slot = Choice::default();
        } else if slot.second == NOBODY {
            slot.second = 0;
        }
    }
    Some(table)
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
        }
    }

    fn firsts_and_seconds(of: &Candidates) -> (Vec<u16>, Vec<u16>) {
        let state = State::default();
        let (members, nobody) = of.weighed(&state);
        let table = table(&members, nobody, 101).unwrap_or_default();
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
        let (members, nobody) = chain.weighed(&state);
        assert_eq!(nobody, SUM / 2);
        let table = table(&members, nobody, 1021).unwrap();
        let none = table.iter().filter(|c| c.first == 0).count();
        assert!((500..522).contains(&none), "{none}");
        let named = table.iter().filter(|c| c.first == 0 && c.second != 0);
        assert_eq!(named.count(), 0);
        assert!(table.iter().all(|c| c.second <= 2));
    }
}
