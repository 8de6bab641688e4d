//! Weighted Maglev: the consistent-hash lookup table of a service, with two choices per slot.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// Table sizes to choose from: primes in ascending order.
const SIZES: [usize; 10] = [101, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537];

/// A member of the table and its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weighted<'a> {
    /// Member id; 0 means none and never enters a table.
    pub id: u16,
    /// Member name, unique in the table: the positions of its slots depend on the name, not on the
    /// id.
    pub name: &'a str,
    /// Share relative to the other members; 0 excludes the member.
    pub weight: u32,
}

/// Contents of a slot: the member of new flows, and the alternative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choice {
    /// Member of new flows; 0 if there is none.
    pub first: u16,
    /// Member to try if `first` is hot or down; 0 if there is no other member.
    pub second: u16,
}

/// Returns the table size for a number of members: the smallest listed prime of at least a hundred
/// times the number, and at most 65,537.
#[must_use]
pub fn table_size(members: usize) -> usize {
    let wanted = members.saturating_mul(100);
    let largest = SIZES[SIZES.len() - 1];
    SIZES.into_iter().find(|s| *s >= wanted).unwrap_or(largest)
}

/// State of one member's walk through the table.
struct Walk {
    id: u16,
    weight: u64,
    quota: usize,
    start: usize,
    skip: usize,
    at: usize,
    steps: usize,
    taken: usize,
}

impl Walk {
    fn new(member: &Weighted<'_>, size: usize, seed: u64) -> Self {
        let hash = |tag: u64| {
            let mut hasher = SipHasher13::new_with_keys(seed, tag);
            hasher.write(member.name.as_bytes());
            hasher.finish()
        };
        let below = |hash: u64, bound: usize| (hash % bound.max(1) as u64) as usize;
        let start = below(hash(0), size);
        Self {
            id: member.id,
            weight: u64::from(member.weight),
            quota: 0,
            start,
            skip: below(hash(1), size - 1) + 1,
            at: start,
            steps: 0,
            taken: 0,
        }
    }

    /// Returns the next slot of the member's permutation that `free` accepts.
    fn next(&mut self, size: usize, free: impl Fn(usize) -> bool) -> Option<usize> {
        while self.steps < size {
            let slot = self.at;
            self.at = (self.at + self.skip) % size;
            self.steps += 1;
            if free(slot) {
                self.taken += 1;
                return Some(slot);
            }
        }
        None
    }

    fn rewind(&mut self) {
        (self.at, self.steps, self.taken) = (self.start, 0, 0);
    }
}

/// Builds the table of `size` slots, which must be prime (see [`table_size`]).
///
/// The result depends on names, weights and seed only, not on the order of `members`, and is the
/// same on every machine and in every release. Every member has its exact share, rounded to a slot.
/// Without a member of positive weight, all slots are zero.
#[must_use]
pub fn build(members: &[Weighted<'_>], size: usize, seed: u64) -> Vec<Choice> {
    let mut table = vec![Choice::default(); size];
    let mut sorted: Vec<_> = members
        .iter()
        .filter(|m| m.weight > 0 && m.id != 0)
        .collect();
    sorted.sort_by_key(|m| (m.name, m.id));
    if sorted.is_empty() || size == 0 {
        return table;
    }
    let mut walks: Vec<_> = sorted.iter().map(|m| Walk::new(m, size, seed)).collect();
    set_quotas(&mut walks, size);
    fill(&mut walks, size, |walk| {
        if walk.taken >= walk.quota {
            return false;
        }
        let slot = walk.next(size, |slot| table[slot].first == 0);
        slot.is_some_and(|slot| {
            table[slot].first = walk.id;
            true
        })
    });
    // The second choice of a slot is the member that would have taken it next: it most likely
    // inherits the slot when the first one leaves.
    walks.iter_mut().for_each(Walk::rewind);
    fill(&mut walks, size, |walk| {
        let id = walk.id;
        let slot = walk.next(size, |s| table[s].second == 0 && table[s].first != id);
        slot.is_some_and(|slot| {
            table[slot].second = id;
            true
        })
    });
    table
}

/// Computes the number of slots of each member by weight; the largest remainders get the slots left
/// over by rounding.
fn set_quotas(walks: &mut [Walk], size: usize) {
    let total: u64 = walks.iter().map(|w| w.weight).sum();
    let mut remainders = Vec::with_capacity(walks.len());
    let mut left = size;
    for (index, walk) in walks.iter_mut().enumerate() {
        let share = u128::from(walk.weight) * size as u128;
        walk.quota = (share / u128::from(total)) as usize;
        left -= walk.quota;
        remainders.push((std::cmp::Reverse(share % u128::from(total)), index));
    }
    remainders.sort_unstable();
    for (_, index) in remainders.into_iter().take(left) {
        walks[index].quota += 1;
    }
}

/// Lets members take slots in turns, in proportion to their weights, until none takes one.
fn fill(walks: &mut [Walk], size: usize, mut take: impl FnMut(&mut Walk) -> bool) {
    let heaviest = walks.iter().map(|w| w.weight).max().unwrap_or(1);
    let mut credit = vec![0; walks.len()];
    let mut done = vec![false; walks.len()];
    let mut left = size;
    while left > 0 && done.contains(&false) {
        for (index, walk) in walks.iter_mut().enumerate() {
            credit[index] += walk.weight;
            if done[index] || credit[index] < heaviest {
                continue;
            }
            credit[index] -= heaviest;
            if take(walk) {
                left -= 1;
            } else {
                done[index] = true;
            }
        }
    }
}

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
