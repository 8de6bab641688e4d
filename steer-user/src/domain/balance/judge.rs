//! Who meets the objective, and who is much slower than its peers.

use super::{Member, Pool, Settings, State, tick::entry};

/// A member meets the objective within it, and does no longer at so much more, in percent.
const MISSES: u64 = 120;
/// So many times the median of its pool's other members is slow.
const SLOW: u64 = 3;
/// And down to so many times is no longer.
const FINE: u64 = 2;
/// Nothing below this is slow, in microseconds.
const QUICK: u64 = 20_000;
/// So many peers make a median.
const PEERS: usize = 2;

/// Judges all members of a table. Of one that says nothing what was concluded holds.
pub(super) fn judge(state: &mut State, settings: &Settings, pools: &[Pool], members: &[Member]) {
    for member in members {
        let was = state.memory(&member.name);
        let mut now = was;
        now.meets = match (settings.objective_us, member.answers_us) {
            (None, _) => false,
            (Some(_), None) => was.meets,
            (Some(objective), Some(takes)) => {
                let bound = if was.meets { MISSES } else { 100 };
                u64::from(takes) * 100 <= u64::from(objective) * bound
            }
        };
        if now != was {
            *entry(state, &member.name) = now;
        }
    }
    for pool in 0..pools.len() {
        slow(state, members, pool);
    }
}

fn slow(state: &mut State, members: &[Member], pool: usize) {
    let own = |m: &&Member| m.pool == pool && m.healthy;
    let all: Vec<(&Member, u64)> = members
        .iter()
        .filter(own)
        .filter_map(|m| Some((m, u64::from(m.first_token_us?))))
        .collect();
    for (member, takes) in &all {
        let others = all.iter().filter(|(other, _)| other.name != member.name);
        let mut others: Vec<u64> = others.map(|(_, takes)| *takes).collect();
        let was = state.memory(&member.name);
        let mut now = was;
        now.slow = if others.len() < PEERS {
            false
        } else {
            others.sort_unstable();
            // Of two in the middle the slower one: one peer that claims to be fast makes nobody slow.
            let median = others[others.len() / 2];
            let bound = median * if was.slow { FINE } else { SLOW };
            *takes > bound.max(QUICK)
        };
        if now != was {
            *entry(state, &member.name) = now;
        }
    }
}
