//! Whether the daemon can be relied on: `/readyz`.

use serde::{Deserialize, Serialize};
use steer_common::abi::MemberState;

use super::{Attachment, Controller};
use crate::{dataplane::Dataplane, domain::health::State};

/// Whether the daemon can be relied on, and what is lacking.
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
    pub(super) fn of<D: Dataplane>(controller: &Controller<D>, attached: &[Attachment]) -> Self {
        let config = &controller.config;
        let mut not_attached = config.node.interfaces.clone();
        let is_attached = |name: &String| {
            let found = attached.iter().find(|found| found.interface == *name);
            found.is_some_and(|found| found.failure.is_none() && found.mode.is_some())
        };
        not_attached.retain(|interface| !is_attached(interface));
        let services = config.services.iter().enumerate();
        let not_measured: Vec<String> = services
            .filter(|(index, _)| !is_measured(controller, *index))
            .map(|(_, service)| service.name.clone())
            .collect();
        let frozen = controller.frozen.is_some();
        Self {
            ready: not_attached.is_empty() && not_measured.is_empty() && !frozen,
            not_attached,
            not_measured,
            frozen,
        }
    }
}

/// Whether a service serves, or all is known that says it does not.
fn is_measured<D: Dataplane>(controller: &Controller<D>, service: usize) -> bool {
    let members = || {
        let range = (service, 0)..(service + 1, 0);
        controller.numbers.members.range(range)
    };
    let serves =
        members().any(|(_, id)| controller.dataplane.member(*id).state == MemberState::Up as u8);
    serves
        || members().all(|((_, backend), _)| {
            let backend = &controller.config.backends[*backend];
            let known = controller.known.get(&backend.name);
            known.is_some_and(|known| known.health(backend) != State::Unknown)
        })
}
