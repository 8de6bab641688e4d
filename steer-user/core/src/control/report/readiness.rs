//! Readiness: whether the daemon can be relied on, as `/readyz` says it.

use serde::{Deserialize, Serialize};
use steer_common::abi::MemberState;

use super::attachment::Attachment;
use crate::{
    control::{backends::Backends, site::Site},
    dataplane::Dataplane,
};

/// Readiness of the daemon, with what is lacking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Readiness {
    /// Whether all of it is so.
    pub ready: bool,
    /// Interfaces of the configuration that the program is not attached to.
    pub not_attached: Vec<String>,
    /// Services that are not measured: no member takes new flows, and not every backend was asked yet.
    pub not_measured: Vec<String>,
    /// Whether tables still are as the daemon before left them.
    pub frozen: bool,
}

impl Readiness {
    pub(crate) fn evaluate(
        site: &Site,
        dataplane: &impl Dataplane,
        backends: &Backends,
        frozen: bool,
        attached: &[Attachment],
    ) -> Self {
        let mut not_attached = site.config.node.interfaces.clone();
        let is_attached = |name: &String| {
            let found = attached.iter().find(|found| found.interface == *name);
            found.is_some_and(|found| found.failure.is_none() && found.mode.is_some())
        };
        not_attached.retain(|interface| !is_attached(interface));
        let services = site.config.services.iter().enumerate();
        let not_measured: Vec<String> = services
            .filter(|(index, _)| !is_measured(site, dataplane, backends, *index))
            .map(|(_, service)| service.name.clone())
            .collect();
        Self {
            ready: not_attached.is_empty() && not_measured.is_empty() && !frozen,
            not_attached,
            not_measured,
            frozen,
        }
    }
}

/// Returns whether a service serves, or all is known that says it does not.
fn is_measured(
    site: &Site,
    dataplane: &impl Dataplane,
    backends: &Backends,
    service: usize,
) -> bool {
    let mut members = site.ids.of_service(service);
    let serves = members.any(|(_, id)| dataplane.member(id).state == MemberState::Up as u8);
    let mut members = site.ids.of_service(service);
    serves || members.all(|(backend, _)| backends.is_measured(&site.config.backends[backend]))
}
