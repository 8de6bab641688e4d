//! Connections of this node's own, to confirm or contradict what packets look like.

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;
use steer_probe::probe::confirmation::Outcome;
use tracing::info;

use super::super::{Controller, desired::Numbers, why::Said};
use crate::{
    config::{Config, Mode, Protocol},
    dataplane::Dataplane,
    domain::passive::Verdict,
    journal::Event,
};

/// Connections that are asked for in one look, so that a flood of forged packets stays cheap.
const MAX_REQUESTS: usize = 64;

/// A connection that is to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRequest {
    /// The backend's name.
    pub backend: String,
    /// Where it serves.
    pub address: SocketAddr,
}

/// TCP ports of backends at which a connection of this node's own can tell whether they serve: under `nat`, and not
/// where a service has all ports. In the other modes a backend serves at the service's address, which is the node's.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Ports {
    of_members: Vec<Option<u16>>,
    /// Of each backend the one where packets last looked like trouble.
    of_backends: Vec<Option<u16>>,
}

impl Ports {
    /// Finds them in a configuration.
    pub(in crate::control) fn find(config: &Config, numbers: &Numbers) -> Self {
        let last = numbers.members.values().max().copied().unwrap_or(0);
        let mut ports = Self {
            of_members: vec![None; usize::from(last) + 1],
            of_backends: vec![None; config.backends.len()],
        };
        for ((service, backend), id) in &numbers.members {
            let service = &config.services[*service];
            let Mode::Nat { port } = &config.backends[*backend].mode else {
                continue;
            };
            let port = port.unwrap_or(service.port);
            if service.protocol == Protocol::Tcp && port != 0 {
                ports.of_members[usize::from(*id)] = Some(port);
                ports.of_backends[*backend].get_or_insert(port);
            }
        }
        ports
    }

    /// The port of a backend.
    pub(in crate::control) fn port(&self, backend: usize) -> Option<u16> {
        self.of_backends.get(backend).copied().flatten()
    }

    /// Notes that a member's packets look like trouble.
    pub(in crate::control) fn suspect(&mut self, backend: usize, member: usize) {
        let port = self.of_members.get(member).copied().flatten();
        if let (Some(place), Some(port)) = (self.of_backends.get_mut(backend), port) {
            *place = Some(port);
        }
    }
}

impl<D: Dataplane> Controller<D> {
    /// Connections to try that were asked for since this was called last.
    pub fn take_connection_requests(&mut self) -> Vec<ConnectionRequest> {
        std::mem::take(&mut self.requests)
    }

    /// Asks for a connection to a backend, if one would say more now.
    pub(in crate::control) fn request_connection(&mut self, index: usize, now: Instant) {
        let Some(port) = self.seen.ports.port(index) else {
            return;
        };
        let backend = &self.config.backends[index];
        let Some(known) = self.known.get_mut(&backend.name) else {
            return;
        };
        let now = self.recorder.on_clock(now);
        let wanted = known.watch.wants_connection(known.is_reported_down(), now);
        if wanted && self.requests.len() < MAX_REQUESTS {
            known.watch.begin_connection(now);
            self.requests.push(ConnectionRequest {
                backend: backend.name.clone(),
                address: SocketAddr::new(backend.address, port),
            });
        }
    }

    /// Takes in how a connection that was asked for ended, unless the backend has moved since.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn answer_request(
        &mut self,
        request: &ConnectionRequest,
        outcome: Outcome,
        now: Instant,
    ) -> Result<()> {
        let backend = self.concern.place(&request.backend);
        let backend = backend.and_then(|place| self.config.backends.get(place));
        if backend.is_none_or(|backend| backend.address != request.address.ip()) {
            return Ok(());
        }
        self.confirm(&request.backend, outcome, now)
    }

    /// Takes in how a connection of this node's own ended.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub fn confirm(&mut self, backend: &str, outcome: Outcome, now: Instant) -> Result<()> {
        let Some(known) = self.known.get_mut(backend) else {
            return Ok(());
        };
        let now = self.recorder.on_clock(now);
        let before = known.watch.write(|at| self.recorder.micros(at));
        match outcome {
            Outcome::Connected => known.connected = true,
            Outcome::Refused => known.connected = false,
            Outcome::NoAnswer | Outcome::NotTried => {}
        }
        let verdict = known.watch.confirm(outcome, now);
        if let Some(place) = self.concern.place(backend) {
            self.seen.wait_for(place);
            self.questionable.insert(place);
        }
        let Some(verdict) = verdict else {
            return if self.rejudge(backend, now) {
                self.replan_of(backend, now)
            } else {
                Ok(())
            };
        };
        info!(backend, %verdict, "connection of this node's own to backend");
        let event = Event::OwnConnection {
            backend: backend.to_owned(),
            before,
            outcome,
            verdict,
        };
        self.recorder.tell_at(now, event);
        self.after_connection(backend, outcome, verdict, now)
    }

    /// Does what follows from a connection of this node's own.
    pub(in crate::control) fn after_connection(
        &mut self,
        backend: &str,
        outcome: Outcome,
        verdict: Verdict,
        now: Instant,
    ) -> Result<()> {
        let because = match outcome {
            Outcome::Connected => "a connection of this node's own was accepted",
            Outcome::Refused => "a connection of this node's own was refused",
            Outcome::NoAnswer => "a connection of this node's own was not answered",
            Outcome::NotTried => "this node could not try a connection of its own",
        };
        self.why.note(Said {
            backend: backend.to_owned(),
            service: None,
            what: "connections".to_owned(),
            because: vec![because.to_owned()],
            effect: verdict.to_string(),
        });
        self.contradicted += u64::from(verdict == Verdict::Contradicted);
        self.rejudge(backend, now);
        if verdict == Verdict::Accepts {
            self.warm_up(backend);
        }
        self.replan_of(backend, now)
    }
}
