//! Verdicts about backends: from all signals, by the rule of evidence ([`crate::domain::evidence`]).

pub(crate) mod claims;
pub(crate) mod confirmations;
pub(crate) mod connections;
pub(crate) mod ejection;
pub(crate) mod outlier_detection;
pub(crate) mod panic_mode;
pub(crate) mod passive_latency;
mod pool_room;

use std::{collections::BTreeSet, mem, net::SocketAddr, time::Instant};

use anyhow::Result;
use steer_probe::probe::confirmation::Outcome;
use tracing::info;

use self::{
    confirmations::{ConnectionRequest, MAX_REQUESTS},
    connections::Connections,
    ejection::Ejection,
    outlier_detection::OutlierDetection,
};
use super::{
    backends::{Backends, state::BackendState},
    record::{decisions::NewDecision, recorder::Recorder},
    site::Site,
};
use crate::{
    config::Config,
    dataplane::Dataplane,
    domain::{
        evidence::{self, Evidence, Inputs, Proof},
        health::State,
        outliers::Outlier,
        passive::{self, Counts},
        silence::PeerTraffic,
    },
    journal::Event,
};

/// Evidence about backends, apart from their own states.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    pub(crate) connections: Connections,
    pub(crate) outliers: OutlierDetection,
    /// Backends whose verdict may be changed by time, or by what clients get.
    questionable: BTreeSet<usize>,
    /// Connections of this node's own that are to be tried.
    requests: Vec<ConnectionRequest>,
    /// Number of contradictions of evidence against a backend.
    contradicted: u64,
    /// Whether verdicts are taken from a journal, and none are judged here.
    replays: bool,
}

/// Backends whose connections are to be judged.
pub(crate) struct Due {
    /// Indexes of the backends, in order.
    pub(crate) backends: Vec<usize>,
    /// Those whose clients got answers.
    answering: BTreeSet<usize>,
}

impl Health {
    /// Takes another configuration.
    pub(crate) fn reconfigure(&mut self, before: &Config, site: &Site) {
        self.connections.reconfigure(before, site);
        self.outliers = OutlierDetection::new(&site.config);
        self.questionable = (0..site.config.backends.len()).collect();
        self.requests.clear();
    }

    /// Judges nothing from now on: a replay takes verdicts from the journal.
    pub(crate) fn replay(&mut self) {
        self.replays = true;
    }

    /// Number of contradictions of evidence against a backend.
    pub(crate) fn contradicted(&self) -> u64 {
        self.contradicted
    }

    /// Judges a backend, and journals another verdict with its inputs. Returns whether there is one.
    pub(crate) fn judge(
        &mut self,
        backend: &str,
        site: &Site,
        backends: &mut Backends,
        recorder: &mut Recorder,
        now: Instant,
    ) -> bool {
        if self.replays {
            return false;
        }
        let Some(state) = backends.get(backend) else {
            return false;
        };
        let asked = state.evidence == Some(Evidence::Proof(Proof::CompletionFailed));
        let has_room = !asked || pool_room::for_question(site, backends, backend, now);
        let Some(state) = backends.get_mut(backend) else {
            return false;
        };
        let inputs = state.inputs(has_room, now);
        let before = state.verdict;
        let Some(verdict) = state.judge_again(&inputs) else {
            return false;
        };
        if verdict.proof() == Some(Proof::CompletionFailed) {
            state.questioned = state.questioned.or(Some(now));
        } else if state.health.state() == State::Up {
            state.questioned = None;
        }
        self.contradicted += u64::from(matches!(verdict, evidence::Verdict::Contradicted(_)));
        info!(backend, from = %before, to = %verdict, "verdict about backend changed");
        let event = Event::Verdict {
            backend: backend.to_owned(),
            inputs,
            verdict,
        };
        recorder.tell_at(now, event);
        recorder.decision(decision(backend, state, &inputs, verdict), now);
        if !verdict.serves() {
            // Connections that a dying backend resets say nothing of the one that comes back.
            self.forget_failures(backend, site);
        }
        true
    }

    /// Begins anew to count what a backend fails.
    pub(crate) fn forget_failures(&mut self, backend: &str, site: &Site) {
        if let Some(index) = site.backend(backend) {
            let all = self.connections.tally(index);
            self.outliers.forget(index, all);
        }
    }

    /// Has a backend judged at the next poll, and asks for a connection, if time or clients may change its verdict.
    /// Returns whether they may.
    pub(crate) fn question(
        &mut self,
        backend: &str,
        site: &Site,
        backends: &mut Backends,
        recorder: &Recorder,
        now: Instant,
    ) -> bool {
        let is_in_question = backends
            .get(backend)
            .is_some_and(BackendState::is_in_question);
        if let Some(index) = site.backend(backend).filter(|_| is_in_question) {
            self.questionable.insert(index);
            self.request_connection(index, site, backends, recorder, now);
        }
        is_in_question
    }

    /// Takes the backends that are to be judged.
    pub(crate) fn take_questionable(&mut self) -> BTreeSet<usize> {
        mem::take(&mut self.questionable)
    }

    /// Has a backend judged at the next poll again, if time may change its verdict.
    pub(crate) fn question_again(&mut self, index: usize, state: Option<&BackendState>) {
        if state.is_some_and(BackendState::is_in_question) {
            self.questionable.insert(index);
        }
    }

    /// Reads what connections say of backends. Connections themselves are seen of those that are reached by `nat`; of
    /// all others it is seen what goes to them, and whether clients acknowledge answers.
    ///
    /// # Errors
    /// If the data path cannot be read.
    pub(crate) fn read_connections(
        &mut self,
        site: &Site,
        dataplane: &mut impl Dataplane,
        now: Instant,
    ) -> Result<Due> {
        self.connections.read(site, dataplane, now)?;
        let changed = self.connections.take_changed();
        let answers = |index: &usize| self.connections.answers(site, *index);
        let answering = changed.iter().copied().filter(answers).collect();
        self.outliers.compare_all(site, &self.connections, now);
        let waiting = self.connections.take_waiting();
        Ok(Due {
            backends: changed.union(&waiting).copied().collect(),
            answering,
        })
    }

    /// Takes in what connections say of a backend; returns what to do about it.
    pub(crate) fn observe(
        &mut self,
        index: usize,
        (due, outlier): (&Due, Option<Outlier>),
        site: &Site,
        backends: &mut Backends,
        recorder: &mut Recorder,
        now: Instant,
    ) -> Option<Ejection> {
        let backend = &site.config.backends[index];
        let state = backends.get(&backend.name);
        let peer_traffic = PeerTraffic {
            direct: backend.mode.is_direct_return(),
            others: due.answering.len() > usize::from(due.answering.contains(&index)),
            well: state.is_some_and(|state| state.health(backend) == State::Up),
            confirmable: self.connections.ports.port(index).is_some(),
            outlier,
        };
        let counts = self.connections.counts(index);
        let state = backends.get_mut(&backend.name)?;
        self.observe_counts(
            (index, &backend.name),
            counts,
            peer_traffic,
            state,
            recorder,
            now,
        )
    }

    /// Takes in what was counted of a backend's connections, over all its members, since the maps were
    /// made. The first time nothing follows: it may be of an earlier daemon.
    pub(crate) fn observe_counts(
        &mut self,
        (index, backend): (usize, &str),
        counts: Counts,
        peer_traffic: PeerTraffic,
        state: &mut BackendState,
        recorder: &mut Recorder,
        now: Instant,
    ) -> Option<Ejection> {
        let new = match self.connections.take_in(index, counts) {
            Some(before) => counts.since(&before).unwrap_or_default(),
            None => Counts::default(),
        };
        let now = recorder.on_clock(now);
        let before = state.watch.write(|at| recorder.micros(at));
        let verdict = state.watch.observe(&new, peer_traffic, now)?;
        connections::log(backend, state, &new, verdict, now);
        let event = Event::OutlierDetection {
            backend: backend.to_owned(),
            before,
            counts: new,
            peer_traffic,
            verdict,
        };
        recorder.tell_at(now, event);
        Some(Ejection {
            backend: backend.to_owned(),
            counts: new,
            outlier: peer_traffic.outlier,
            verdict,
            at: now,
        })
    }

    /// Asks for a connection to a backend, if one would say more now.
    fn request_connection(
        &mut self,
        index: usize,
        site: &Site,
        backends: &mut Backends,
        recorder: &Recorder,
        now: Instant,
    ) {
        let Some(port) = self.connections.ports.port(index) else {
            return;
        };
        let backend = &site.config.backends[index];
        let Some(state) = backends.get_mut(&backend.name) else {
            return;
        };
        let now = recorder.on_clock(now);
        let wanted = state.watch.wants_connection(state.is_reported_down(), now);
        if wanted && self.requests.len() < MAX_REQUESTS {
            state.watch.begin_connection(now);
            self.requests.push(ConnectionRequest {
                backend: backend.name.clone(),
                address: SocketAddr::new(backend.address, port),
            });
        }
    }

    /// Takes the connections to try that were asked for since the last call.
    pub(crate) fn take_requests(&mut self) -> Vec<ConnectionRequest> {
        mem::take(&mut self.requests)
    }

    /// Asks for what may change what connections say of a backend: a connection, or another look at the next poll.
    pub(crate) fn watch_again(
        &mut self,
        index: usize,
        site: &Site,
        backends: &mut Backends,
        recorder: &Recorder,
        now: Instant,
    ) {
        self.request_connection(index, site, backends, recorder, now);
        let state = backends.get(&site.config.backends[index].name);
        if state.is_some_and(|state| state.watch.is_waiting()) {
            self.connections.wait_for(index);
        }
        self.question_again(index, state);
    }

    /// Takes in how a connection of this node's own ended; returns what packets and it say together, if that changed.
    pub(crate) fn confirm(
        &mut self,
        backend: &str,
        outcome: Outcome,
        site: &Site,
        backends: &mut Backends,
        recorder: &mut Recorder,
        now: Instant,
    ) -> Option<passive::Verdict> {
        let state = backends.get_mut(backend)?;
        let before = state.watch.write(|at| recorder.micros(at));
        match outcome {
            Outcome::Connected => state.connected = true,
            Outcome::Refused => state.connected = false,
            Outcome::NoAnswer | Outcome::NotTried => {}
        }
        let verdict = state.watch.confirm(outcome, now);
        if let Some(index) = site.backend(backend) {
            self.connections.wait_for(index);
            self.questionable.insert(index);
        }
        let verdict = verdict?;
        info!(backend, %verdict, "connection of this node's own to backend");
        let event = Event::OwnConnection {
            backend: backend.to_owned(),
            before,
            outcome,
            verdict,
        };
        recorder.tell_at(now, event);
        Some(verdict)
    }

    /// Records what a connection of this node's own says together with packets.
    pub(crate) fn record_confirmation(
        &mut self,
        backend: &str,
        (outcome, verdict): (Outcome, passive::Verdict),
        recorder: &mut Recorder,
        now: Instant,
    ) {
        recorder.decision(confirmations::decision(backend, outcome, verdict), now);
        self.contradicted += u64::from(verdict == passive::Verdict::Contradicted);
    }

    /// Returns whether a backend fails so much more often than its peers that it is to be ejected.
    pub(crate) fn outlier(
        &mut self,
        index: usize,
        site: &Site,
        backends: &Backends,
        dataplane: &impl Dataplane,
        now: Instant,
    ) -> Option<Outlier> {
        let connections = &self.connections;
        self.outliers
            .outlier(index, (site, backends), connections, dataplane, now)
    }
}

/// A verdict with its inputs, for `steer why`.
fn decision(
    backend: &str,
    state: &BackendState,
    inputs: &Inputs,
    verdict: evidence::Verdict,
) -> NewDecision {
    let mut because: Vec<String> = state.failure.iter().map(ToString::to_string).collect();
    if !inputs.failing_for.is_zero() {
        because.push(format!(
            "probes fail for {} ms",
            inputs.failing_for.as_millis()
        ));
    }
    because.push(match inputs.answered {
        Some(ago) => format!("clients answered {} ms ago", ago.as_millis()),
        None => "no answers to clients were seen".to_owned(),
    });
    NewDecision {
        backend: backend.to_owned(),
        service: None,
        what: "verdict".to_owned(),
        because,
        effect: verdict.to_string(),
    }
}
