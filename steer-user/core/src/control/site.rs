//! The running configuration with the ids and tables that it got. Components read it; only [`super::publish`] makes
//! one.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::ids::{Ids, regions::Regions};
use crate::config::{Config, Policy, PolicyId};

/// Running configuration, with what belongs to it in the data path.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) config: Config,
    pub(crate) ids: Ids,
    pub(crate) regions: Regions,
    /// Services and their classes, in the order of the configuration.
    pub(crate) policies: Vec<PolicyId>,
    /// Slots of the table of each policy.
    pub(crate) tables: Vec<Range<u32>>,
    backends: HashMap<String, usize>,
    policies_of: Vec<Vec<usize>>,
}

impl Site {
    /// A configuration that nothing was published of yet.
    pub(crate) fn unpublished(config: Config) -> Self {
        Self {
            config,
            ids: Ids::default(),
            regions: Regions::default(),
            policies: Vec::new(),
            tables: Vec::new(),
            backends: HashMap::new(),
            policies_of: Vec::new(),
        }
    }

    /// A configuration with its ids and tables.
    pub(crate) fn new(config: Config, ids: Ids, regions: Regions, tables: Vec<Range<u32>>) -> Self {
        let policies = config.policy_ids();
        let mut policies_of = vec![Vec::new(); config.backends.len()];
        for (index, id) in policies.iter().enumerate() {
            let members: HashSet<usize> = config.policy(*id).members(&config).into_iter().collect();
            for backend in members {
                policies_of[backend].push(index);
            }
        }
        let backends = config.backends.iter().enumerate();
        Self {
            backends: backends.map(|(i, b)| (b.name.clone(), i)).collect(),
            policies_of,
            ids,
            regions,
            policies,
            tables,
            config,
        }
    }

    /// A policy, by its index.
    pub(crate) fn policy(&self, index: usize) -> Policy<'_> {
        self.config.policy(self.policies[index])
    }

    /// The name of a policy, by its index.
    pub(crate) fn policy_name(&self, index: usize) -> String {
        self.policy(index).name()
    }

    /// Names of all policies.
    pub(crate) fn policy_names(&self) -> HashSet<String> {
        (0..self.policies.len())
            .map(|index| self.policy_name(index))
            .collect()
    }

    /// The index of a policy, by its name.
    pub(crate) fn policy_named(&self, name: &str) -> Option<usize> {
        (0..self.policies.len()).find(|index| self.policy_name(*index) == name)
    }

    /// The index of a backend, by its name.
    pub(crate) fn backend(&self, name: &str) -> Option<usize> {
        self.backends.get(name).copied()
    }

    /// Indexes of the policies that a backend may serve.
    pub(crate) fn policies_of(&self, backend: &str) -> &[usize] {
        let index = self.backend(backend);
        index.map_or(&[], |index| self.policies_of[index].as_slice())
    }

    /// Slots of the table of a policy.
    pub(crate) fn slots(&self, policy: usize) -> u32 {
        let range = self.tables.get(policy);
        range.map_or(0, |range| range.end - range.start)
    }
}
