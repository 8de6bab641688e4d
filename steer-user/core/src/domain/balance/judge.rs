//! Latency judgement: which members meet the objective, and which are much slower than their peers.

use super::{Member, Pool, Settings, State, tick::entry};

/// Percentage of the objective above which a member that met it no longer does.
const MISSES: u64 = 120;
/// Multiple of the median of its pool's other members from which a member counts as slow.
const SLOW: u64 = 3;
/// Multiple of that median below which a slow member no longer counts as slow.
const FINE: u64 = 2;
/// Time to answer in microseconds below which no member counts as slow.
const QUICK: u64 = 20_000;
/// Minimum number of peers for a median.
const PEERS: usize = 2;

/// Judges all members of a table. A member without a measurement keeps its last judgement.
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
            // With two values in the middle, take the slower one: a single peer that claims to be
            // fast must not make the others look slow.
            let median = others[others.len() / 2];
            let bound = median * if was.slow { FINE } else { SLOW };
            *takes > bound.max(QUICK)
        };
        if now != was {
            *entry(state, &member.name) = now;
        }
    }
}
