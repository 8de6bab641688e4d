//! Panic mode: where most backends of all pools seem to be dead, hung or refusing, it is likelier that what says so is
//! wrong. Those that no proof speaks against take new flows then, and where proof speaks against all, all of them.

use std::collections::{BTreeSet, HashSet};

use tracing::{info, warn};

use super::super::Controller;
use crate::{
    config::{Backend, PolicyId},
    dataplane::Dataplane,
    domain::evidence::Proof,
    journal::Event,
};

/// A pool with fewer backends says little by its share of healthy ones: two of three may well be dead.
const MANY: usize = 4;

/// How many backends of a pool are healthy.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    healthy: usize,
    all: usize,
}

impl Count {
    fn is_thin(self, below: u32) -> bool {
        self.all > 0 && self.healthy * 100 < self.all * below as usize
    }

    fn is_many(self) -> bool {
        self.all >= MANY
    }
}

impl<D: Dataplane> Controller<D> {
    /// Whether new flows may go to a backend by what is known of it, or was concluded before.
    pub(in crate::control) fn is_sound(&self, backend: &Backend) -> bool {
        let known = self.known.get(&backend.name);
        known.is_some_and(|known| !known.is_out())
    }

    /// Whether a pool of a policy has so few healthy backends that the next one takes over a part.
    pub(in crate::control) fn is_thin(&self, id: PolicyId, pool: usize) -> bool {
        self.count(id, pool)
            .is_thin(self.config.balance.panic_below)
    }

    fn count(&self, id: PolicyId, pool: usize) -> Count {
        let policy = self.config.policy(id);
        let mut count = Count::default();
        for backend in &self.config.pools[pool].backends {
            let backend = &self.config.backends[*backend];
            if policy.may_use(backend) {
                count.all += 1;
                count.healthy += usize::from(self.is_sound(backend));
            }
        }
        count
    }

    /// Whether all pools of a policy have too few healthy backends, with their number and how many
    /// there are.
    fn panics(&self, id: PolicyId) -> (bool, usize, usize) {
        let below = self.config.balance.panic_below;
        let pools = self.config.policy(id).pools.iter();
        let counts: Vec<Count> = pools.map(|pool| self.count(id, *pool)).collect();
        let panics = below > 0 && counts.iter().all(|c| c.all == 0 || c.is_thin(below));
        // A backend may be in several pools.
        let policy = self.config.policy(id);
        let members: BTreeSet<usize> = policy.members(&self.config).into_iter().collect();
        let members = members
            .into_iter()
            .map(|index| &self.config.backends[index]);
        let members: Vec<&Backend> = members.filter(|b| policy.may_use(b)).collect();
        let healthy = members.iter().filter(|b| self.is_sound(b)).count();
        (panics, healthy, members.len())
    }

    /// Finds out where probes are not believed, and tells where that changed.
    pub(in crate::control) fn look_for_panic(&mut self) {
        let all: Vec<usize> = (0..self.policies.len()).collect();
        self.look_for_panic_of(&all);
    }

    /// The same of some policies, by their places.
    pub(in crate::control) fn look_for_panic_of(&mut self, policies: &[usize]) {
        // Policies of a service have a say in it together.
        let services: HashSet<usize> = policies.iter().map(|p| self.policies[*p].service).collect();
        let ids: Vec<PolicyId> = match policies.len() == self.policies.len() {
            true => self.policies.clone(),
            false => {
                let all = self.policies.iter().copied();
                all.filter(|id| services.contains(&id.service)).collect()
            }
        };
        let revived = self.revived.iter().copied();
        let mut revived: HashSet<_> = revived.filter(|(s, _)| !services.contains(s)).collect();
        let names: HashSet<String> = ids
            .iter()
            .map(|id| self.config.policy(*id).name())
            .collect();
        let panicking = self.panicking.iter().cloned();
        let mut panicking: HashSet<_> = panicking.filter(|name| !names.contains(name)).collect();
        for id in ids {
            let (panics, healthy, of) = self.panics(id);
            let name = &self.config.policy(id).name();
            let mut any = false;
            if panics {
                for backend in self.revivable(id, healthy == 0) {
                    any = true;
                    revived.insert((id.service, backend));
                }
            }
            if any {
                panicking.insert(name.clone());
            }
            if any != self.panicking.contains(name) {
                if any {
                    warn!(
                        service = name,
                        healthy,
                        of,
                        "panic mode: most backends seem to be down, so those without proof against them take new flows"
                    );
                } else {
                    info!(
                        service = name,
                        healthy, of, "panic mode ended: probes are believed again"
                    );
                }
                self.recorder.tell(Event::Panic {
                    service: name.clone(),
                    panics: any,
                    healthy,
                    of,
                });
            }
        }
        self.revived = revived;
        self.panicking = panicking;
    }

    /// Backends that are out and may live all the same.
    fn revivable(&self, id: PolicyId, is_last: bool) -> Vec<usize> {
        let settings = self.config.policy(id);
        let mut found = Vec::new();
        for pool in settings.pools {
            let is_many = self.count(id, *pool).is_many();
            for index in &self.config.pools[*pool].backends {
                let backend = &self.config.backends[*index];
                let Some(known) = self.known.get(&backend.name) else {
                    continue;
                };
                if settings.may_use(backend)
                    && known.is_out()
                    && known.may_serve(backend, is_many, is_last)
                {
                    found.push(*index);
                }
            }
        }
        if found.is_empty() && is_last {
            found = self.all_refusing(id);
        }
        found
    }

    /// Returns all backends of a policy, if there are several and each refuses connections of this node's own. What
    /// refuses the node need not refuse clients, a rule of a firewall for instance, and if it does, a client that asks it
    /// is refused at once, as it is without a backend.
    fn all_refusing(&self, id: PolicyId) -> Vec<usize> {
        let policy = self.config.policy(id);
        let members: BTreeSet<usize> = policy.members(&self.config).into_iter().collect();
        let members = members
            .into_iter()
            .filter(|index| policy.may_use(&self.config.backends[*index]));
        let members: Vec<usize> = members.collect();
        let refuses = |index: &usize| {
            let known = self.known.get(&self.config.backends[*index].name);
            known.is_some_and(|k| k.verdict.proof() == Some(Proof::ConnectionRefused))
        };
        if members.len() > 1 && members.iter().all(refuses) {
            members
        } else {
            Vec::new()
        }
    }
}
