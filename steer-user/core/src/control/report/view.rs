//! View of the components: all that can be asked without changing anything.

use std::collections::HashMap;

use anyhow::Result;
use steer_common::abi::Member;

use super::{
    attachment::Attachment,
    names::{Interfaces, SiteNames},
    readiness::Readiness,
};
use crate::{
    config::{self, Config},
    control::{
        admission::Admission,
        backends::{Backends, Operator},
        error::CommandError,
        health::{
            Health,
            passive_latency::{MemberPassive, PassiveLatency},
        },
        planner::Planner,
        publish::tuning::Tuning,
        record::{decisions::Decision, recorder::Recorder},
        site::Site,
        tables::gc::GarbageCollection,
    },
    dataplane::Dataplane,
    domain::health::State,
};

/// Components of a controller.
pub struct View<'a, D> {
    pub(crate) site: &'a Site,
    pub(crate) dataplane: &'a D,
    pub(crate) backends: &'a Backends,
    pub(crate) health: &'a Health,
    pub(crate) passive: &'a PassiveLatency,
    pub(crate) planner: &'a Planner,
    pub(crate) gc: &'a GarbageCollection,
    pub(crate) admission: &'a Admission,
    pub(crate) recorder: &'a Recorder,
    pub(crate) tuning: &'a Tuning,
}

impl<'a, D: Dataplane> View<'a, D> {
    /// The configuration in use.
    #[must_use]
    pub fn config(&self) -> &'a Config {
        &self.site.config
    }

    /// Values that the operator set in place of built-in ones.
    #[must_use]
    pub fn tuning(&self) -> &'a Tuning {
        self.tuning
    }

    /// Drains and weights that the operator set.
    #[must_use]
    pub fn operator(&self) -> &'a Operator {
        self.backends.operator()
    }

    /// Names of the configuration, with those of its interfaces.
    #[must_use]
    pub fn names<'i>(&self, interfaces: &'i Interfaces) -> SiteNames<'i>
    where
        'a: 'i,
    {
        SiteNames {
            site: self.site,
            interfaces,
        }
    }

    /// Names of services and classes, by their ids.
    #[must_use]
    pub fn policy_names(&self) -> HashMap<u16, String> {
        let names = (0..).map(|index| self.site.policy_name(index));
        self.site.ids.policies.iter().copied().zip(names).collect()
    }

    /// Names of members' backends, by the ids of the members.
    #[must_use]
    pub fn member_names(&self) -> HashMap<u16, String> {
        let backends = &self.site.config.backends;
        let members = self.site.ids.members.iter();
        members
            .map(|((_, backend), id)| (*id, backends[*backend].name.clone()))
            .collect()
    }

    /// The id of a service, by its name.
    #[must_use]
    pub fn service_id(&self, name: &str) -> Option<u16> {
        let mut services = self.site.config.services.iter();
        let index = services.position(|service| service.name == name)?;
        self.site.ids.services.get(index).copied()
    }

    /// The members of a backend, by its name; `None` if it is not configured.
    #[must_use]
    pub fn members_of(&self, backend: &str) -> Option<Vec<Member>> {
        let members = self.site.ids.of_backend(self.site.backend(backend)?).iter();
        Some(members.map(|(_, id)| self.dataplane.member(*id)).collect())
    }

    /// The last decisions about a backend, the oldest first, each with its inputs.
    ///
    /// # Errors
    /// If there is no such backend.
    pub fn decisions(&self, backend: &str) -> Result<Vec<Decision>, CommandError> {
        if self.backends.contains(backend) {
            Ok(self.recorder.decisions(backend))
        } else {
            Err(CommandError::Unknown(backend.to_owned()))
        }
    }

    /// Measurements of members with mode `nat`, by their packets.
    ///
    /// # Errors
    /// If the data path cannot be read.
    pub fn passive(&self) -> Result<Vec<MemberPassive>> {
        self.passive.all(self.site, self.dataplane)
    }

    /// Readiness of the daemon that is attached to these interfaces.
    #[must_use]
    pub fn readiness(&self, attached: &[Attachment]) -> Readiness {
        let frozen = self.planner.tables.is_frozen();
        Readiness::evaluate(self.site, self.dataplane, self.backends, frozen, attached)
    }

    /// State of the node in one line.
    #[must_use]
    pub fn summary(&self, generation: Option<u64>) -> String {
        let up = |backend: &&config::Backend| {
            let state = self.backends.get(&backend.name);
            state.is_some_and(|state| state.health(backend) == State::Up)
        };
        let all = &self.site.config.backends;
        let generation = generation.map_or_else(String::new, |n| format!("generation {n}; "));
        format!(
            "{generation}{} of {} backends up; {} services",
            all.iter().filter(up).count(),
            all.len(),
            self.site.config.services.len(),
        )
    }
}
