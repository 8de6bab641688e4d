//! Panic mode: where most backends of all pools seem to be dead, hung or refusing, it is likelier that what says so is
//! wrong. Those that no proof speaks against take new flows then, and where proof speaks against all, all of them.

use std::collections::{BTreeSet, HashSet};

use tracing::{info, warn};

use crate::{
    config::{Backend, PolicyId},
    control::{backends::Backends, record::recorder::Recorder, site::Site},
    domain::evidence::Proof,
    journal::Event,
};

/// A pool with fewer backends says little by its share of healthy ones: two of three may well be dead.
const MANY: usize = 4;

/// Number of healthy backends of a pool.
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

/// Policies in panic mode.
#[derive(Clone, Debug, Default)]
pub(crate) struct PanicMode {
    /// Their names.
    on: HashSet<String>,
    /// Backends that take new flows although they are ejected, by the indexes of service and backend.
    revived: HashSet<(usize, usize)>,
}

impl PanicMode {
    /// Takes another configuration.
    pub(crate) fn reconfigure(&mut self, site: &Site) {
        let names = site.policy_names();
        self.on.retain(|name| names.contains(name));
        self.revived.clear();
    }

    /// Returns whether a policy is in panic mode, by its name.
    pub(crate) fn is_on(&self, policy: &str) -> bool {
        self.on.contains(policy)
    }

    /// Returns whether a backend takes new flows of a service although it is ejected, by the indexes of both.
    pub(crate) fn revives(&self, service: usize, backend: usize) -> bool {
        self.revived.contains(&(service, backend))
    }

    /// Enters or leaves panic mode for policies, by their indexes, and for all others of the same services.
    pub(crate) fn update(
        &mut self,
        policies: &[usize],
        site: &Site,
        backends: &Backends,
        recorder: &mut Recorder,
    ) {
        // Policies of a service have a say in it together.
        let services: HashSet<usize> = policies.iter().map(|p| site.policies[*p].service).collect();
        let ids: Vec<PolicyId> = match policies.len() == site.policies.len() {
            true => site.policies.clone(),
            false => {
                let all = site.policies.iter().copied();
                all.filter(|id| services.contains(&id.service)).collect()
            }
        };
        self.revived
            .retain(|(service, _)| !services.contains(service));
        for id in ids {
            let (panics, healthy, of) = panics(site, backends, id);
            let name = site.config.policy(id).name();
            let mut any = false;
            if panics {
                for backend in revivable(site, backends, id, healthy == 0) {
                    any = true;
                    self.revived.insert((id.service, backend));
                }
            }
            let changed = if any {
                self.on.insert(name.clone())
            } else {
                self.on.remove(&name)
            };
            if changed {
                log(&name, any, healthy, of);
                recorder.record(Event::Panic {
                    service: name,
                    panic_mode: any,
                    healthy,
                    total: of,
                });
            }
        }
    }
}

fn log(service: &str, panics: bool, healthy: usize, of: usize) {
    if panics {
        warn!(
            service,
            healthy,
            of,
            "panic mode: most backends seem to be down, so those without proof against them take new flows"
        );
    } else {
        info!(
            service,
            healthy, of, "panic mode ended: probes are believed again"
        );
    }
}

/// Returns whether a pool of a policy has so few healthy backends that the next one takes over a part.
pub(crate) fn is_thin(site: &Site, backends: &Backends, id: PolicyId, pool: usize) -> bool {
    count(site, backends, id, pool).is_thin(site.config.balance.panic_below)
}

fn count(site: &Site, backends: &Backends, id: PolicyId, pool: usize) -> Count {
    let policy = site.config.policy(id);
    let mut count = Count::default();
    for backend in &site.config.pools[pool].backends {
        let backend = &site.config.backends[*backend];
        if policy.may_use(backend) {
            count.all += 1;
            count.healthy += usize::from(backends.is_sound(backend));
        }
    }
    count
}

/// Returns whether all pools of a policy have too few healthy backends, with their number and that of all.
fn panics(site: &Site, backends: &Backends, id: PolicyId) -> (bool, usize, usize) {
    let below = site.config.balance.panic_below;
    let policy = site.config.policy(id);
    let pools = policy.pools.iter();
    let counts: Vec<Count> = pools.map(|pool| count(site, backends, id, *pool)).collect();
    let panics = below > 0 && counts.iter().all(|c| c.all == 0 || c.is_thin(below));
    // A backend may be in several pools.
    let members: BTreeSet<usize> = policy.members(&site.config).into_iter().collect();
    let members = members
        .into_iter()
        .map(|index| &site.config.backends[index]);
    let members: Vec<&Backend> = members.filter(|b| policy.may_use(b)).collect();
    let healthy = members.iter().filter(|b| backends.is_sound(b)).count();
    (panics, healthy, members.len())
}

/// Ejected backends that may serve nevertheless.
fn revivable(site: &Site, backends: &Backends, id: PolicyId, is_last: bool) -> Vec<usize> {
    let settings = site.config.policy(id);
    let mut found = Vec::new();
    for pool in settings.pools {
        let is_many = count(site, backends, id, *pool).is_many();
        for index in &site.config.pools[*pool].backends {
            let backend = &site.config.backends[*index];
            let Some(state) = backends.get(&backend.name) else {
                continue;
            };
            if settings.may_use(backend)
                && state.is_out()
                && state.may_serve(backend, is_many, is_last)
            {
                found.push(*index);
            }
        }
    }
    if found.is_empty() && is_last {
        found = all_refusing(site, backends, id);
    }
    found
}

/// Returns all backends of a policy, if there are several and each refuses connections of this node's own. What
/// refuses the node need not refuse clients, a rule of a firewall for instance, and if it does, a client that asks it
/// is refused at once, as it is without a backend.
fn all_refusing(site: &Site, backends: &Backends, id: PolicyId) -> Vec<usize> {
    let policy = site.config.policy(id);
    let members: BTreeSet<usize> = policy.members(&site.config).into_iter().collect();
    let members = members
        .into_iter()
        .filter(|index| policy.may_use(&site.config.backends[*index]));
    let members: Vec<usize> = members.collect();
    let refuses = |index: &usize| {
        let state = backends.get(&site.config.backends[*index].name);
        state.is_some_and(|state| state.verdict.proof() == Some(Proof::ConnectionRefused))
    };
    if members.len() > 1 && members.iter().all(refuses) {
        members
    } else {
        Vec::new()
    }
}
