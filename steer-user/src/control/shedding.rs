//! New flows of the lowest priority are shed where a pool is hot.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use steer_common::abi::{MemberState, member_flags};
use tracing::info;

use super::Controller;
use crate::{dataplane::Dataplane, domain::pressure::Pressure, journal::Event};

/// What is shed.
#[derive(Debug, Default)]
pub(super) struct Shedding {
    /// By the name of the pool.
    pools: BTreeMap<String, Pressure>,
    /// New flows whose priority is below this are shed, by the place of the policy.
    below: Vec<u32>,
}

impl Shedding {
    /// Whether new flows of a policy are shed, by its place and its priority.
    pub(super) fn sheds(&self, policy: usize, priority: u8) -> bool {
        self.below
            .get(policy)
            .is_some_and(|below| u32::from(priority) < *below)
    }
}

/// What a pool serves at the moment.
#[derive(Default)]
struct Serving {
    policies: Vec<usize>,
    priorities: BTreeSet<u8>,
    members: usize,
    hot: usize,
}

impl<D: Dataplane> Controller<D> {
    /// Takes what pools are hot now, and sheds what is less important, or no longer.
    pub(super) fn shed(&mut self, now: Instant) {
        let mut below = vec![0; self.policies.len()];
        for (pool, serving) in self.serving() {
            let name = &self.config.pools[pool].name;
            let pressure = self.shedding.pools.entry(name.clone()).or_default();
            let share = serving.hot as f64 / serving.members.max(1) as f64;
            let changed = pressure.observe(share, serving.priorities.len(), now);
            let lowest = serving.priorities.iter().nth(pressure.level());
            let bound = match pressure.level() {
                0 => 0,
                _ => lowest.copied().unwrap_or(0),
            };
            if changed.is_some() {
                let (hot, members) = (serving.hot, serving.members);
                info!(pool = name, hot, members, below = bound, "shedding changed");
                self.recorder.tell(Event::Shedding {
                    pool: name.clone(),
                    hot,
                    members,
                    below: bound,
                });
            }
            for policy in serving.policies {
                below[policy] = u32::from(bound);
            }
        }
        for (policy, bound) in below.iter().enumerate() {
            if self.shedding.below.get(policy) != Some(bound) {
                let number = self.numbers.policies[policy];
                self.dataplane.set_pressure(number, *bound);
            }
        }
        self.shedding.below = below;
    }

    /// Forgets what is shed of services and classes, whose places have changed.
    pub(super) fn reshuffle_shedding(&mut self) {
        self.shedding.below.clear();
        let pools = &self.config.pools;
        let is_there = |name: &String| pools.iter().any(|pool| pool.name == *name);
        self.shedding.pools.retain(|name, _| is_there(name));
    }

    /// What each pool serves: those for whom it is the first with a member that takes new flows. None
    /// where all have the same priority.
    fn serving(&self) -> BTreeMap<usize, Serving> {
        let mut pools: BTreeMap<usize, Serving> = BTreeMap::new();
        let policies = self.policies.iter().map(|id| self.config.policy(*id));
        let priorities: BTreeSet<u8> = policies.map(|policy| policy.priority).collect();
        if priorities.len() < 2 {
            return pools;
        }
        for (index, id) in self.policies.iter().enumerate() {
            let policy = self.config.policy(*id);
            for pool in policy.pools {
                let own = self.config.pools[*pool].backends.iter();
                let own = own.filter(|b| policy.may_use(&self.config.backends[**b]));
                let own = own.map(|b| self.numbers.members[&(id.service, *b)]);
                let up: Vec<u16> = own
                    .filter(|id| self.dataplane.member(*id).state == MemberState::Up as u8)
                    .collect();
                if up.is_empty() {
                    continue;
                }
                let serving = pools.entry(*pool).or_default();
                serving.policies.push(index);
                serving.priorities.insert(policy.priority);
                serving.members += up.len();
                serving.hot += up.iter().filter(|id| self.is_hot(**id)).count();
                break;
            }
        }
        pools
    }

    /// Whether new flows avoid a member for its load.
    pub(super) fn is_hot(&self, id: u16) -> bool {
        let member = self.dataplane.member(id);
        let limit = i64::from(member.max_in_flight);
        let full = limit != 0 && self.dataplane.in_flight(id) >= limit;
        full || member.flags & member_flags::HOT != 0
    }
}
