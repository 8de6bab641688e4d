//! Shedding: new flows of the lowest priority are refused where a pool is hot.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use steer_common::abi::MemberState;
use tracing::info;

use super::in_flight::is_hot;
use crate::{
    control::{record::recorder::Recorder, site::Site},
    dataplane::Dataplane,
    domain::pressure::Pressure,
    journal::Event,
};

/// Pressure on pools, and the priorities that are shed for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shedding {
    /// Pressure by the name of the pool.
    pools: BTreeMap<String, Pressure>,
    /// Priorities below which new flows are shed, by the index of the policy.
    below: Vec<u32>,
}

/// Load of a pool.
#[derive(Default)]
struct Serving {
    policies: Vec<usize>,
    priorities: BTreeSet<u8>,
    members: usize,
    hot: usize,
}

impl Shedding {
    /// Returns whether new flows of a policy are shed, by its index and its priority.
    pub(crate) fn sheds(&self, policy: usize, priority: u8) -> bool {
        self.below
            .get(policy)
            .is_some_and(|below| u32::from(priority) < *below)
    }

    /// Measures the pressure on pools, and sheds what is less important, or no longer.
    pub(crate) fn apply(
        &mut self,
        site: &Site,
        dataplane: &mut impl Dataplane,
        recorder: &mut Recorder,
        now: Instant,
    ) {
        let mut below = vec![0; site.policies.len()];
        for (pool, serving) in serving(site, dataplane) {
            let bound = self.observe(&site.config.pools[pool].name, &serving, recorder, now);
            for policy in serving.policies {
                below[policy] = u32::from(bound);
            }
        }
        for (policy, bound) in below.iter().enumerate() {
            if self.below.get(policy) != Some(bound) {
                dataplane.set_pressure(site.ids.policies[policy], *bound);
            }
        }
        self.below = below;
    }

    /// Takes in the load of a pool; returns the priority below which its new flows are shed.
    fn observe(
        &mut self,
        pool: &str,
        serving: &Serving,
        recorder: &mut Recorder,
        now: Instant,
    ) -> u8 {
        let pressure = self.pools.entry(pool.to_owned()).or_default();
        let share = serving.hot as f64 / serving.members.max(1) as f64;
        let changed = pressure.observe(share, serving.priorities.len(), now);
        let lowest = serving.priorities.iter().nth(pressure.level());
        let below = match pressure.level() {
            0 => 0,
            _ => lowest.copied().unwrap_or(0),
        };
        if changed.is_some() {
            let (hot, members) = (serving.hot, serving.members);
            info!(pool, hot, members, below, "shedding changed");
            recorder.record(Event::Shedding {
                pool: pool.to_owned(),
                hot,
                members,
                below,
            });
        }
        below
    }

    /// Takes another configuration: indexes of policies have changed.
    pub(crate) fn reconfigure(&mut self, site: &Site) {
        self.below.clear();
        let pools = &site.config.pools;
        self.pools
            .retain(|name, _| pools.iter().any(|pool| pool.name == *name));
    }
}

/// Load of each pool by the policies of which it is the first with a member that takes new flows. None where all
/// policies have the same priority.
fn serving(site: &Site, dataplane: &impl Dataplane) -> BTreeMap<usize, Serving> {
    let mut pools: BTreeMap<usize, Serving> = BTreeMap::new();
    let policies = (0..site.policies.len()).map(|index| site.policy(index));
    let priorities: BTreeSet<u8> = policies.map(|policy| policy.priority).collect();
    if priorities.len() < 2 {
        return pools;
    }
    for (index, id) in site.policies.iter().enumerate() {
        let policy = site.config.policy(*id);
        for pool in policy.pools {
            let own = site.config.pools[*pool].backends.iter();
            let own = own.filter(|b| policy.may_use(&site.config.backends[**b]));
            let own = own.map(|b| site.ids.members[&(id.service, *b)]);
            let up: Vec<u16> = own
                .filter(|id| dataplane.member(*id).state == MemberState::Up as u8)
                .collect();
            if up.is_empty() {
                continue;
            }
            let serving = pools.entry(*pool).or_default();
            serving.policies.push(index);
            serving.priorities.insert(policy.priority);
            serving.members += up.len();
            serving.hot += up.iter().filter(|id| is_hot(dataplane, **id)).count();
            break;
        }
    }
    pools
}
