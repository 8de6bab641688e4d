//! What is known of one backend.

use std::time::{Duration, Instant};

use steer_common::tables::NextHop;
use steer_probe::probe::{DRAINING, Load, Measurement, ProbeFailure, Trouble};

use super::operator::Draining;
use crate::config;
use crate::domain::evidence::{
    ANSWERED, Contradiction, Evidence, Inputs, MAX_PATIENCE, Proof, Testimony, Verdict, judge,
};
use crate::domain::flap::Damping;
use crate::domain::health::{Health, State, Transition};
use crate::domain::load::{Smoothed, usage};
use crate::domain::loss::Loss;
use crate::domain::passive::Watch;
use crate::domain::rings::{BOUNDS, Nearness};
use crate::domain::rules::{Doubt, Rules};
use crate::journal::{Base, Judged};

/// The rules of a configuration.
pub(super) fn rules(config: &config::Config) -> Rules {
    Rules {
        hot: config.balance.hot(),
        flap_half_life: config.probe.flap_half_life,
    }
}

/// One backend, apart from its configuration.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) rules: Rules,
    pub(super) health: Health,
    pub(super) nearness: Nearness,
    /// What it pays for dying again and again.
    pub(super) damping: Damping,
    pub(super) loss: Loss,
    /// Its use.
    pub(super) load: Smoothed,
    /// Whether it is too busy for new flows.
    pub(super) hot: bool,
    /// Microseconds to the first token, as it was reported last.
    pub(super) first_token_us: Option<u32>,
    /// What connections tell of it.
    pub(super) watch: Watch,
    /// The operator wants no new flows on it.
    pub(super) drained: Option<Draining>,
    /// The weight that the operator gave it in place of its capacity.
    pub(super) weight: Option<u32>,
    /// Its beacon wants no new flows on it.
    pub(super) draining: bool,
    /// The way to it. `None` until the kernel's tables were asked.
    pub(super) way: Option<Option<NextHop>>,
    pub(super) failure: Option<ProbeFailure>,
    /// What the last failure of a probe leaves open.
    pub(super) doubt: Option<Doubt>,
    pub(super) measured: Option<Instant>,
    /// The use that [`Self::hot`] was judged by last, unsmoothed.
    pub(super) used: Option<u32>,
    /// What is concluded from all signals.
    pub(super) verdict: Verdict,
    /// What the last probe that failed amounts to.
    pub(super) evidence: Option<Evidence>,
    /// When probes began to fail.
    pub(super) failing_since: Option<Instant>,
    /// Whether it accepted a connection of this node's own since then.
    pub(super) connected: bool,
    /// How old an answer may be to contradict testimony.
    pub(super) patience: Duration,
    /// When it was ejected because of a hint and its question.
    pub(super) questioned: Option<Instant>,
    /// A weak sign of trouble that its beacon reports, in words.
    pub(super) hint: Option<String>,
}

/// What a measurement changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) health: Option<Transition>,
    /// The rings before and after.
    pub(super) ring: Option<(Option<usize>, usize)>,
    pub(super) draining: Option<bool>,
    /// Whether it is left out for dying again and again.
    pub(super) suppressed: Option<bool>,
    pub(super) lossy: Option<bool>,
    pub(super) hot: Option<bool>,
    /// What is left open of it while it is down.
    pub(super) doubt: Option<Doubt>,
}

impl Change {
    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether it came back, after it was out.
    pub(super) fn came_back(&self) -> bool {
        let rose = |t: Transition| t.from == State::Down && t.to == State::Up;
        self.health.is_some_and(rose) || self.suppressed == Some(false)
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = Vec::new();
        words.extend(
            self.health
                .map(|t| format!("health {} -> {}", t.from, t.to)),
        );
        words.extend(self.ring.map(|(from, to)| match from {
            Some(from) => format!("ring {from} -> {to}"),
            None => format!("ring {to}"),
        }));
        let flags = [
            ("draining", self.draining),
            ("ejected for flapping", self.suppressed),
            ("lossy", self.lossy),
            ("hot", self.hot),
        ];
        words.extend(flags.iter().filter_map(|(what, flag)| {
            let no = if (*flag)? { "" } else { "no longer " };
            Some(format!("{no}{what}"))
        }));
        if words.is_empty() {
            words.push("fails in another way".to_owned());
        }
        f.write_str(&words.join(", "))
    }
}

impl Known {
    pub(super) fn new(config: &config::Config) -> Self {
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
            drained: None,
            weight: None,
            draining: false,
            way: None,
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

    /// One of which only so much is known; `instant` is the journal's clock.
    pub(super) fn from_base(base: &Base, instant: impl Fn(u64) -> Instant + Copy) -> Self {
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
            drained: None,
            weight: None,
            draining: base.draining,
            way: None,
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

    /// Goes on from what is concluded of it elsewhere.
    pub(super) fn resume(&mut self, from: &Self) {
        *self = Self {
            drained: self.drained,
            weight: self.weight,
            way: self.way,
            failure: self.failure.clone(),
            first_token_us: self.first_token_us,
            measured: self.measured,
            ..from.clone()
        };
    }

    /// What is concluded of it; `micros` is the journal's clock.
    pub(super) fn base(&self, micros: impl Fn(Instant) -> u64 + Copy) -> Base {
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

    pub(super) fn measure(&mut self, measurement: &Measurement) -> Change {
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
        change.suppressed = self.damping.look(self.rules.flap_half_life, at);
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
            }) if !self.was_answered_within(ANSWERED, at) => self.damping.died(half_life, at),
            _ => self.damping.look(half_life, at),
        };
        if self.health.state() == State::Down && (other || change.health.is_some()) {
            change.doubt = doubt;
        }
    }

    fn was_answered_within(&self, time: Duration, now: Instant) -> bool {
        let at = self.watch.silence().answered_at();
        at.is_some_and(|at| now.saturating_duration_since(at) <= time)
    }

    /// All that the verdict depends on now.
    pub(super) fn inputs(&self, pool_has_room: bool, now: Instant) -> Inputs {
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

    /// Concludes anew, and returns the verdict if it is another one.
    pub(super) fn rejudge(&mut self, inputs: &Inputs) -> Option<Verdict> {
        let verdict = judge(inputs);
        if verdict == self.verdict {
            return None;
        }
        let by_answers = Verdict::Contradicted(Contradiction::ClientsAnswered);
        if verdict == by_answers && !self.verdict.serves() {
            // It was too early, so it is waited for longer next time.
            self.patience = (self.patience * 2).clamp(ANSWERED * 2, MAX_PATIENCE);
        } else if verdict == Verdict::Serving && inputs.failing_for.is_zero() {
            self.patience /= 2;
        }
        self.verdict = verdict;
        Some(verdict)
    }

    /// Whether its beacon reports that it refuses connections.
    pub(super) fn is_reported_down(&self) -> bool {
        let reported = Evidence::Testimony(Testimony::ReportedDown);
        self.health.state() == State::Down && self.evidence == Some(reported)
    }

    /// Whether time, or what clients get, may change the verdict.
    pub(super) fn is_in_question(&self) -> bool {
        self.verdict != Verdict::Serving
            || self.watch.out().is_some()
            || self.health.state() == State::Down
    }

    fn take_load(&mut self, load: &Load, at: Instant) -> Option<bool> {
        let used = use_of(load);
        self.used = used.or(self.used);
        if let Some(used) = used {
            self.load.observe(used, at);
        }
        let token = load.first_token_p50.or(load.first_token_mean);
        self.first_token_us = token.map(|seconds| (seconds * 1e6) as u32);
        let hot = self.rules.hot.judge(self.hot, used);
        (std::mem::replace(&mut self.hot, hot) != hot).then_some(hot)
    }

    /// Its health; a backend that is not probed counts as up.
    pub(super) fn health(&self, backend: &config::Backend) -> State {
        if backend.probes.is_empty() {
            State::Up
        } else {
            self.health.state()
        }
    }

    /// Its ring; one that was not measured is near if it is in this node's zone, farther in its region
    /// only, else far.
    pub(super) fn ring(&self, backend: &config::Backend, node: &config::Node) -> usize {
        let other_zone =
            !node.zone.is_empty() && !backend.zone.is_empty() && node.zone != backend.zone;
        let assumed = if !backend.probes.is_empty() || backend.region != node.region {
            BOUNDS.len()
        } else {
            usize::from(other_zone)
        };
        self.nearness.ring().unwrap_or(assumed)
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.nearness.smoothed()
    }

    /// Whether it is kept from new flows although nothing is said against it.
    pub(super) fn is_out(&self) -> bool {
        self.damping.suppressed() || !self.verdict.serves()
    }

    /// Whether it may serve although it is out, where too few others are left: what no proof says may be wrong of
    /// many at once. With only a few others, that nobody answered is believed; one that answers probes serves if it
    /// is of the last.
    pub(super) fn may_serve(
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

    pub(super) fn takes_new(&self) -> bool {
        self.drained.is_none() && !self.draining
    }
}

fn doubt(failure: &ProbeFailure) -> Doubt {
    match failure {
        ProbeFailure::Tls(_) | ProbeFailure::Identity(_) | ProbeFailure::Malformed(_) => {
            Doubt::Untrusted
        }
        // Its counters may stand still, or its beacon be wrong.
        ProbeFailure::Hung { trouble, .. } if !trouble.is_unready() => Doubt::Untrusted,
        // An ICMP error comes from anybody on the way.
        ProbeFailure::Timeout | ProbeFailure::Refused(_) => Doubt::Silent,
        _ => Doubt::None,
    }
}

/// How strong a probe's failure is.
pub(super) fn evidence_of(failure: &ProbeFailure) -> Evidence {
    Evidence::Testimony(match failure {
        ProbeFailure::ConnectionRefused => return Evidence::Proof(Proof::ConnectionRefused),
        ProbeFailure::Hung { trouble, .. } => match trouble {
            Trouble::NoCompletion => return Evidence::Proof(Proof::CompletionFailed),
            Trouble::NoProgress => return Evidence::Hint,
            Trouble::Loading | Trouble::Asleep => Testimony::NotReady,
            Trouble::Silent | Trouble::Other => Testimony::ReportedSilent,
        },
        // It says so itself.
        ProbeFailure::NotReady { .. } | ProbeFailure::Status { .. } => Testimony::NotReady,
        ProbeFailure::BackendDown => Testimony::ReportedDown,
        ProbeFailure::Identity(_) | ProbeFailure::Tls(_) | ProbeFailure::Malformed(_) => {
            Testimony::Untrusted
        }
        ProbeFailure::Refused(_) => Testimony::ProbeRejected,
        ProbeFailure::Timeout | ProbeFailure::Local(_) => Testimony::ProbeTimeout,
    })
}

/// How much of itself a backend uses, in parts of [`crate::domain::load::WHOLE`]: what waits of what
/// may, of its cache, and what it works on of what it can. The load of its machine says little of an
/// engine, so it does not count.
fn use_of(load: &Load) -> Option<u32> {
    let part = |of: Option<f64>, all: Option<f64>| Some(of? / all.filter(|all| *all > 0.0)?);
    usage([
        part(load.waiting, load.limit),
        load.kv_use,
        part(load.in_flight.or(load.running), load.capacity),
    ])
}
