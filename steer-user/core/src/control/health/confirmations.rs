//! Connections of this node's own, to confirm or contradict what packets look like.

use std::net::SocketAddr;

use steer_probe::probe::confirmation::Outcome;

use crate::{
    config::Protocol,
    control::{record::decisions::NewDecision, site::Site},
    domain::passive::Verdict,
};

/// Connections that are asked for in one poll, so that a flood of forged packets stays cheap.
pub(crate) const MAX_REQUESTS: usize = 64;

/// A connection that is to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRequest {
    /// The backend's name.
    pub backend: String,
    /// Address and port at which it serves.
    pub address: SocketAddr,
}

/// TCP ports of backends at which a connection of this node's own can tell whether they serve: under `nat`, and not
/// where a service has all ports. In the other modes a backend serves at the service's address, which is the node's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ports {
    of_members: Vec<Option<u16>>,
    /// Port of each backend where packets last looked like trouble.
    of_backends: Vec<Option<u16>>,
}

impl Ports {
    /// Finds them in a configuration.
    pub(crate) fn find(site: &Site) -> Self {
        let last = site.ids.members.values().max().copied().unwrap_or(0);
        let mut ports = Self {
            of_members: vec![None; usize::from(last) + 1],
            of_backends: vec![None; site.config.backends.len()],
        };
        for ((service, backend), id) in &site.ids.members {
            let service = &site.config.services[*service];
            let settings = &site.config.backends[*backend];
            if settings.mode.is_direct_return() {
                continue;
            }
            let port = settings.port.unwrap_or(service.port);
            if service.protocol == Protocol::Tcp && port != 0 {
                ports.of_members[usize::from(*id)] = Some(port);
                ports.of_backends[*backend].get_or_insert(port);
            }
        }
        ports
    }

    /// The port of a backend.
    pub(crate) fn port(&self, backend: usize) -> Option<u16> {
        self.of_backends.get(backend).copied().flatten()
    }

    /// Notes that a member's packets look like trouble.
    pub(crate) fn suspect(&mut self, backend: usize, member: usize) {
        let port = self.of_members.get(member).copied().flatten();
        if let (Some(of_backend), Some(port)) = (self.of_backends.get_mut(backend), port) {
            *of_backend = Some(port);
        }
    }
}

/// A verdict by a connection of this node's own, for `steer why`.
pub(crate) fn decision(backend: &str, outcome: Outcome, verdict: Verdict) -> NewDecision {
    let because = match outcome {
        Outcome::Connected => "a connection of this node's own was accepted",
        Outcome::Refused => "a connection of this node's own was refused",
        Outcome::NoAnswer => "a connection of this node's own was not answered",
        Outcome::NotTried => "this node could not try a connection of its own",
    };
    NewDecision {
        backend: backend.to_owned(),
        service: None,
        what: "connections".to_owned(),
        because: vec![because.to_owned()],
        effect: verdict.to_string(),
    }
}
