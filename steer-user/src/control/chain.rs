//! From a chain of pools to a table: the nearest healthy ring of the first pool that has one, and
//! behind it the next.

use crate::domain::maglev::{self, Choice, Weighted};
use crate::domain::rings::{self, Candidate};

/// Seed of the tables; nodes that shall build the same ones share it.
const SEED: u64 = 0x5745_4552;

/// A member as a candidate, with its backend's name.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub(super) name: &'a str,
    pub(super) candidate: Candidate,
}

/// Members chosen, with their weights. Empty where no pool has a healthy member.
pub(super) type Chosen = Vec<(u16, u32)>;

/// The members that new flows go to.
pub(super) fn choose(pools: &[Vec<Member<'_>>]) -> Chosen {
    let chosen = |pool: &Vec<Member<'_>>| {
        let candidates: Vec<_> = pool.iter().map(|m| m.candidate).collect();
        rings::choose(&candidates)
    };
    let mut found = pools.iter().map(chosen);
    found.find(|chosen| !chosen.is_empty()).unwrap_or_default()
}

/// The table of `len` slots; `None` if no member is healthy.
///
/// A member that is alone in its ring has no second choice there; it gets one of the next ring or
/// pool, so that its flows have somewhere to go in the packet after its death.
pub(super) fn table(pools: &[Vec<Member<'_>>], len: usize) -> Option<Vec<Choice>> {
    let chosen = choose(pools);
    let mut table = build(pools, &chosen, len)?;
    if chosen.len() == 1 {
        let rest: Vec<Vec<_>> = pools.iter().map(|pool| without(pool, &chosen)).collect();
        if let Some(behind) = build(&rest, &choose(&rest), len) {
            for (slot, behind) in table.iter_mut().zip(behind) {
                slot.second = behind.first;
            }
        }
    }
    Some(table)
}

fn without<'a>(pool: &[Member<'a>], chosen: &Chosen) -> Vec<Member<'a>> {
    let is_chosen = |member: &Member<'_>| chosen.iter().any(|(id, _)| *id == member.candidate.id);
    pool.iter().filter(|m| !is_chosen(m)).cloned().collect()
}

fn build(pools: &[Vec<Member<'_>>], chosen: &Chosen, len: usize) -> Option<Vec<Choice>> {
    if chosen.is_empty() {
        return None;
    }
    let weighted: Vec<_> = chosen
        .iter()
        .filter_map(|(id, weight)| {
            let member = pools.iter().flatten().find(|m| m.candidate.id == *id)?;
            Some(Weighted {
                id: *id,
                name: member.name,
                weight: *weight,
            })
        })
        .collect();
    Some(maglev::build(&weighted, len, SEED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u16, ring: usize, healthy: bool) -> Member<'static> {
        Member {
            name: ["", "a", "b", "c", "d"][usize::from(id)],
            candidate: Candidate {
                id,
                ring,
                healthy,
                capacity: 1,
            },
        }
    }

    fn ids(pools: &[Vec<Member<'_>>]) -> Vec<u16> {
        choose(pools).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_first_pool_with_a_healthy_member_serves() {
        let near = |healthy| vec![member(1, 0, healthy), member(2, 1, healthy)];
        let far = |healthy| vec![member(3, 0, healthy)];
        assert_eq!(ids(&[near(true), far(true)]), [1]);
        assert_eq!(ids(&[near(false), far(true)]), [3]);
        assert!(ids(&[near(false), far(false)]).is_empty());
        assert!(table(&[near(false), far(false)], 101).is_none());
    }

    #[test]
    fn a_lone_member_has_the_next_ring_or_pool_behind_it() {
        let seconds = |pools: &[Vec<Member<'_>>]| {
            let table = table(pools, 101).unwrap();
            assert!(table.iter().all(|c| c.first == 1));
            let mut seconds: Vec<_> = table.iter().map(|c| c.second).collect();
            seconds.sort_unstable();
            seconds.dedup();
            seconds
        };
        let far = vec![member(4, 0, true)];
        let near = vec![member(1, 0, true), member(2, 1, true), member(3, 1, true)];
        assert_eq!(seconds(&[near, far.clone()]), [2, 3]);
        let near = vec![member(1, 0, true), member(2, 1, false)];
        assert_eq!(seconds(&[near.clone(), far]), [4]);
        assert_eq!(seconds(&[near]), [0]);
    }
}
