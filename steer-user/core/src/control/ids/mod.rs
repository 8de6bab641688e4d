//! Ids that kernel and daemon share. What the maps have already keeps its id; the rest gets free ones.

pub(crate) mod regions;

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Result, bail};
use steer_common::abi::{Family, MAX_MEMBERS, MemberState, Service, ServiceKey};

use crate::{
    config::{Class, Config, Policy},
    dataplane::Dataplane,
};

/// Ids of services, classes and members.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    /// Ids of services, in the order of the configuration.
    pub(crate) services: Vec<u16>,
    /// Ids of services and classes, in the order of [`Config::policy_ids`].
    pub(crate) policies: Vec<u16>,
    /// Ids of services and classes that the maps did not have.
    pub(crate) fresh: Vec<u16>,
    /// Ids of members, by the indexes of service and backend.
    pub(crate) members: BTreeMap<(usize, usize), u16>,
    /// Indexes of services and ids of members, by the index of the backend.
    by_backend: Vec<Vec<(usize, u16)>>,
}

impl Ids {
    /// Takes over the ids that the maps have, and allocates the rest.
    ///
    /// # Errors
    /// If there are more members than the data path holds.
    pub(crate) fn allocate(config: &Config, dataplane: &impl Dataplane) -> Result<Self> {
        let present = present_policies(dataplane);
        let present: HashMap<ServiceKey, u16> = present.iter().map(|p| (p.key, p.id)).collect();
        let mut used: HashSet<u16> = present.values().copied().collect();
        let mut ids = Self::default();
        let mut next = 0;
        for policy in config.policy_ids() {
            let known = present.get(&key(&config.policy(policy))).copied();
            let id = known.unwrap_or_else(|| {
                while !used.insert(next) {
                    next += 1;
                }
                ids.fresh.push(next);
                next
            });
            ids.policies.push(id);
            if policy.class.is_none() {
                ids.services.push(id);
            }
        }
        ids.allocate_members(config, dataplane)?;
        Ok(ids)
    }

    fn allocate_members(&mut self, config: &Config, dataplane: &impl Dataplane) -> Result<()> {
        let mut present = HashMap::new();
        let mut free = Vec::new();
        // From the top, so that the smallest free id is taken first.
        for id in (1..MAX_MEMBERS as u16).rev() {
            let member = dataplane.member(id);
            if member.state == MemberState::Absent as u8 {
                free.push(id);
            } else {
                present.insert((member.service, member.address), id);
            }
        }
        for (index, service) in config.services.iter().enumerate() {
            for backend in config.members(service) {
                let address = config.backends[backend].address.into();
                let known = present.get(&(self.services[index], address)).copied();
                let Some(id) = known.or_else(|| free.pop()) else {
                    bail!(
                        "more members than the {} that there can be",
                        MAX_MEMBERS - 1
                    );
                };
                self.members.insert((index, backend), id);
            }
        }
        self.by_backend.resize(config.backends.len(), Vec::new());
        for ((service, backend), id) in &self.members {
            self.by_backend[*backend].push((*service, *id));
        }
        Ok(())
    }

    /// Returns the members of a backend, each with the index of its service.
    pub(crate) fn of_backend(&self, backend: usize) -> &[(usize, u16)] {
        self.by_backend.get(backend).map_or(&[], Vec::as_slice)
    }

    /// Returns the members of a service, each with the index of its backend.
    pub(crate) fn of_service(&self, service: usize) -> impl Iterator<Item = (usize, u16)> + '_ {
        let members = self.members.range((service, 0)..(service + 1, 0));
        members.map(|((_, backend), id)| (*backend, *id))
    }

    /// Returns the members that the data path has and the configuration does not.
    pub(crate) fn retired(&self, dataplane: &impl Dataplane) -> Vec<u16> {
        let used: HashSet<u16> = self.members.values().copied().collect();
        (1..MAX_MEMBERS as u16)
            .filter(|id| dataplane.member(*id).state != MemberState::Absent as u8)
            .filter(|id| !used.contains(id))
            .collect()
    }
}

/// Services and policies of classes that the data path has.
pub(crate) fn present_policies(dataplane: &impl Dataplane) -> Vec<Service> {
    let mut present = dataplane.services();
    present.extend(dataplane.policies());
    present
}

/// Key by which the data path knows a policy.
pub(crate) fn key(policy: &Policy<'_>) -> ServiceKey {
    let service = policy.service;
    ServiceKey {
        address: service.address.into(),
        port: service.port,
        protocol: service.protocol.number(),
        family: Family::of_ip(&service.address) as u8,
        class: policy.class.map_or(0, Class::hash),
    }
}

/// Key of the service that a policy belongs to.
pub(crate) fn service_key(key: ServiceKey) -> ServiceKey {
    ServiceKey { class: 0, ..key }
}
