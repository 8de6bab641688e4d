//! State of one backend: conclusions from its probes and connections.

use std::time::{Duration, Instant};

use steer_common::tables::NextHop;
use steer_probe::probe::{DRAINING, Load, Measurement, ProbeFailure};

use super::{
    change::{Change, doubt, evidence_of},
    drains::Draining,
};
use crate::{
    config,
    domain::{
        evidence::{
            Contradiction, Evidence, Inputs, MAX_QUESTION_WAIT, Proof, RECENTLY_ANSWERED,
            Testimony, Verdict, verdict,
        },
        flap::Damping,
        health::{Health, State, Transition},
        load::{Smoothed, usage},
        loss::Loss,
        passive::Watch,
        rings::{BOUNDS, Nearness},
        rules::{Doubt, Rules},
    },
    journal::{Base, Judged},
};

/// Rules of a configuration.
pub(crate) fn rules(config: &config::Config) -> Rules {
    Rules {
        hot: config.balance.hot(),
        flap_half_life: config.probe.flap_half_life,
    }
}

/// State of a backend, apart from its configuration.
#[derive(Clone, Debug)]
pub(crate) struct BackendState {
    pub(crate) rules: Rules,
    pub(crate) health: Health,
    pub(crate) nearness: Nearness,
    /// Penalty for flapping.
    pub(crate) damping: Damping,
    pub(crate) loss: Loss,
    /// Smoothed utilization.
    pub(crate) load: Smoothed,
    /// Whether it is too busy for new flows.
    pub(crate) hot: bool,
    /// Microseconds to the first token, as it was reported last.
    pub(crate) first_token_us: Option<u32>,
    /// Evidence by its connections.
    pub(crate) watch: Watch,
    /// Drain by the operator.
    pub(crate) drain: Option<Draining>,
    /// The weight that the operator gave it in place of its capacity.
    pub(crate) weight: Option<u32>,
    /// Whether its beacon reports that it drains.
    pub(crate) draining: bool,
    /// Next hop to it. `None` until routes and neighbours were looked up.
    pub(crate) next_hop: Option<Option<NextHop>>,
    pub(crate) failure: Option<ProbeFailure>,
    /// Doubt that the last failed probe leaves.
    pub(crate) doubt: Option<Doubt>,
    pub(crate) measured: Option<Instant>,
    /// Utilization that [`Self::hot`] was judged by last, unsmoothed.
    pub(crate) used: Option<u32>,
    /// Verdict from all signals.
    pub(crate) verdict: Verdict,
    /// Evidence of the last failed probe.
    pub(crate) evidence: Option<Evidence>,
    /// Time of the first failed probe since the last answer.
    pub(crate) failing_since: Option<Instant>,
    /// Whether it accepted a connection of this node's own since then.
    pub(crate) connected: bool,
    /// Age up to which an answer to a client contradicts testimony.
    pub(crate) patience: Duration,
    /// Time of its ejection by a hint and its question.
    pub(crate) questioned: Option<Instant>,
    /// A weak sign of trouble that its beacon reports, in words.
    pub(crate) hint: Option<String>,
}

impl BackendState {
    pub(crate) fn new(config: &config::Config) -> Self {
        Self {
            rules: rules(config),
            health: Health::new(config.probe.rise, config.probe.fall),
            nearness: Nearness::default(),
            damping: Damping::default(),
            loss: Loss::default(),
            load: Smoothed::default(),
            hot: false,
            first_token_us: None,
            watch: Watch::default(),
            drain: None,
            weight: None,
            draining: false,
            next_hop: None,
            failure: None,
            doubt: None,
            measured: None,
            used: None,
            verdict: Verdict::Serving,
            evidence: None,
            failing_since: None,
            connected: false,
            patience: Duration::ZERO,
            questioned: None,
            hint: None,
        }
    }

    /// Restores a state from the journal, whose clock is `instant`.
    pub(crate) fn from_base(base: &Base, instant: impl Fn(u64) -> Instant + Copy) -> Self {
        let judged = &base.judged;
        let at = |(value, t): (u32, u64)| Smoothed::at(value, instant(t));
        Self {
            rules: judged.rules,
            health: base.health.clone(),
            nearness: base.nearness.clone(),
            damping: judged.penalty.map_or_else(Damping::default, |(p, t)| {
                Damping::with(p, instant(t), judged.suppressed)
            }),
            loss: judged.loss,
            load: judged.load.map_or_else(Smoothed::default, at),
            hot: judged.hot,
            first_token_us: None,
            watch: Watch::read(&judged.watch, instant),
            drain: None,
            weight: None,
            draining: base.draining,
            next_hop: None,
            failure: None,
            doubt: judged.doubt,
            measured: None,
            used: None,
            verdict: judged.verdict,
            evidence: None,
            failing_since: None,
            connected: false,
            patience: Duration::ZERO,
            questioned: None,
            hint: None,
        }
    }

    /// Takes over the conclusions of another state.
    pub(crate) fn resume(&mut self, from: &Self) {
        *self = Self {
            drain: self.drain,
            weight: self.weight,
            next_hop: self.next_hop,
            failure: self.failure.clone(),
            first_token_us: self.first_token_us,
            measured: self.measured,
            ..from.clone()
        };
    }

    /// Conclusions for the journal, whose clock is `micros`.
    pub(crate) fn base(&self, micros: impl Fn(Instant) -> u64 + Copy) -> Base {
        let penalty = self.damping.penalty();
        Base {
            health: self.health.clone(),
            nearness: self.nearness.clone(),
            draining: self.draining,
            judged: Judged {
                rules: self.rules,
                penalty: penalty.map(|(penalty, at)| (penalty, micros(at))),
                suppressed: self.damping.suppressed(),
                loss: self.loss,
                load: self.load.last().map(|(value, at)| (value, micros(at))),
                hot: self.hot,
                watch: self.watch.write(micros),
                doubt: self.doubt,
                verdict: self.verdict,
            },
        }
    }

    pub(crate) fn measure(&mut self, measurement: &Measurement) -> Change {
        let at = measurement.at;
        self.measured = Some(at);
        let mut change = Change::default();
        match &measurement.outcome {
            Ok(sample) => {
                self.failure = None;
                let before = self.nearness.ring();
                if let Some(ring) = self.nearness.observe(sample.rtt) {
                    change.ring = Some((before, ring));
                }
                let metric = sample.report.named_metrics.get(DRAINING);
                let draining = metric.is_some_and(|value| *value > 0.0);
                if draining != self.draining {
                    self.draining = draining;
                    change.draining = Some(draining);
                }
                change.hot = self.take_load(&sample.load, at);
                let hint = sample.load.hint.as_ref();
                self.hint = hint.map(|(hint, seconds)| format!("{hint}, for {seconds:.0} s"));
                self.answered(&mut change, at);
            }
            // It says something about this node, and nothing about the backend.
            Err(failure @ ProbeFailure::Local(_)) => self.failure = Some(failure.clone()),
            Err(failure) => {
                self.failure = Some(failure.clone());
                match evidence_of(failure) {
                    // The beacon answers, and the backend takes connections.
                    Evidence::Hint => {
                        self.hint = Some(failure.to_string());
                        self.answered(&mut change, at);
                    }
                    evidence => self.failed(failure, evidence, &mut change, at),
                }
            }
        }
        change
    }

    fn answered(&mut self, change: &mut Change, at: Instant) {
        self.failing_since = None;
        change.lossy = self.loss.observe(true);
        change.health = self.health.observe(true, at);
        if change.health.is_some() {
            // What was lost while it was down is no loss.
            change.lossy = self.loss.forget();
            self.connected = false;
            self.watch.forgive_outlier();
        }
        change.suppressed = self.damping.poll(self.rules.flap_half_life, at);
    }

    fn failed(
        &mut self,
        failure: &ProbeFailure,
        evidence: Evidence,
        change: &mut Change,
        at: Instant,
    ) {
        let half_life = self.rules.flap_half_life;
        self.failing_since.get_or_insert(at);
        if self.evidence.replace(evidence) != Some(evidence) {
            self.connected = false;
        }
        let doubt = Some(doubt(failure));
        let other = std::mem::replace(&mut self.doubt, doubt) != doubt;
        change.lossy = self.loss.observe(false);
        change.health = self.health.observe(false, at);
        change.suppressed = match change.health {
            // One that goes on serving its clients did not die.
            Some(Transition {
                from: State::Up, ..
            }) if !self.was_answered_within(RECENTLY_ANSWERED, at) => {
                self.damping.record_failure(half_life, at)
            }
            _ => self.damping.poll(half_life, at),
        };
        if self.health.state() == State::Down && (other || change.health.is_some()) {
            change.doubt = doubt;
        }
    }

    fn was_answered_within(&self, time: Duration, now: Instant) -> bool {
        let at = self.watch.silence().answered_at();
        at.is_some_and(|at| now.saturating_duration_since(at) <= time)
    }

    /// Inputs of the verdict now.
    pub(crate) fn inputs(&self, pool_has_room: bool, now: Instant) -> Inputs {
        let since = |at: Instant| now.saturating_duration_since(at);
        Inputs {
            probes: self.evidence.filter(|_| self.health.state() == State::Down),
            failing_for: self.failing_since.map_or(Duration::ZERO, since),
            packets: self.watch.evidence(),
            answered: self.watch.silence().answered_at().map(since),
            connected: self.connected,
            pool_has_room,
            patience: self.patience,
        }
    }

    /// Judges anew, and returns the verdict if it changed.
    pub(crate) fn judge_again(&mut self, inputs: &Inputs) -> Option<Verdict> {
        let verdict = verdict(inputs);
        if verdict == self.verdict {
            return None;
        }
        let by_answers = Verdict::Contradicted(Contradiction::ClientsAnswered);
        if verdict == by_answers && !self.verdict.serves() {
            // It was too early, so it is waited for longer next time.
            self.patience = (self.patience * 2).clamp(RECENTLY_ANSWERED * 2, MAX_QUESTION_WAIT);
        } else if verdict == Verdict::Serving && inputs.failing_for.is_zero() {
            self.patience /= 2;
        }
        self.verdict = verdict;
        Some(verdict)
    }

    /// Returns whether its beacon reports that it refuses connections.
    pub(crate) fn is_reported_down(&self) -> bool {
        let reported = Evidence::Testimony(Testimony::ReportedDown);
        self.health.state() == State::Down && self.evidence == Some(reported)
    }

    /// Returns whether time, or what clients get, may change the verdict.
    pub(crate) fn is_in_question(&self) -> bool {
        self.verdict != Verdict::Serving
            || self.watch.ejected().is_some()
            || self.health.state() == State::Down
    }

    fn take_load(&mut self, load: &Load, at: Instant) -> Option<bool> {
        let used = utilization(load);
        self.used = used.or(self.used);
        if let Some(used) = used {
            self.load.observe(used, at);
        }
        let token = load.first_token_p50.or(load.first_token_mean);
        self.first_token_us = token.map(|seconds| (seconds * 1e6) as u32);
        let hot = self.rules.hot.is_hot(self.hot, used);
        (std::mem::replace(&mut self.hot, hot) != hot).then_some(hot)
    }

    /// Its health; a backend that is not probed counts as up.
    pub(crate) fn health(&self, backend: &config::Backend) -> State {
        if backend.probes.is_empty() {
            State::Up
        } else {
            self.health.state()
        }
    }

    /// Its ring; one that was not measured is near if it is in this node's zone, farther in its region
    /// only, else far.
    pub(crate) fn ring(&self, backend: &config::Backend, node: &config::Node) -> usize {
        let other_zone =
            !node.zone.is_empty() && !backend.zone.is_empty() && node.zone != backend.zone;
        let assumed = if !backend.probes.is_empty() || backend.region != node.region {
            BOUNDS.len()
        } else {
            usize::from(other_zone)
        };
        self.nearness.ring().unwrap_or(assumed)
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.nearness.smoothed()
    }

    /// Returns whether it is ejected: kept from new flows although probes may answer.
    pub(crate) fn is_out(&self) -> bool {
        self.damping.suppressed() || !self.verdict.serves()
    }

    /// Returns whether it may serve although it is out, where too few others are left: what no proof says may be wrong of
    /// many at once. With only a few others, that nobody answered is believed; one that answers probes serves if it
    /// is of the last.
    pub(crate) fn may_serve(
        &self,
        backend: &config::Backend,
        is_many: bool,
        is_last: bool,
    ) -> bool {
        match self.verdict.proof() {
            Some(Proof::ConnectionRefused) => return false,
            // Many engines do not hang at once: whoever asked them is likelier to be wrong.
            Some(Proof::CompletionFailed) => return true,
            None => {}
        }
        match self.doubt {
            _ if self.health(backend) != State::Down => is_many || is_last,
            Some(Doubt::Untrusted) => true,
            Some(Doubt::Silent) => is_many,
            Some(Doubt::None) | None => false,
        }
    }

    pub(crate) fn takes_new(&self) -> bool {
        self.drain.is_none() && !self.draining
    }
}

/// Utilization of a backend in parts of [`crate::domain::load::WHOLE`]: the highest of waiting requests against their
/// limit, of its cache, and of requests in progress against its capacity. The load of its machine says little of an
/// engine, so it does not count.
fn utilization(load: &Load) -> Option<u32> {
    let part = |of: Option<f64>, all: Option<f64>| Some(of? / all.filter(|all| *all > 0.0)?);
    usage([
        part(load.waiting, load.limit),
        load.kv_use,
        part(load.in_flight.or(load.running), load.capacity),
    ])
}
