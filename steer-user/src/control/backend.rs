//! What is known of one backend.

use std::time::{Duration, Instant};

use steer_common::tables::NextHop;

use super::operator::Draining;
use crate::config;
use crate::domain::flap::Damping;
use crate::domain::health::{Health, State, Transition};
use crate::domain::load::{Smoothed, usage};
use crate::domain::loss::Loss;
use crate::domain::passive::{Reason, Watch};
use crate::domain::rings::{BOUNDS, Nearness};
use crate::domain::rules::{Doubt, Rules};
use crate::journal::{Base, Judged};
use crate::probe::{DRAINING, Load, Measurement, ProbeFailure};

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
            },
        }
    }

    pub(super) fn measure(&mut self, measurement: &Measurement) -> Change {
        let at = measurement.at;
        self.measured = Some(at);
        let mut change = Change::default();
        let half_life = self.rules.flap_half_life;
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
                change.lossy = self.loss.observe(true);
                change.health = self.health.observe(true, at);
                if change.health.is_some() {
                    // What was lost while it was down is no loss.
                    change.lossy = self.loss.forget();
                }
                change.suppressed = self.damping.look(half_life, at);
            }
            // It says something about this node, and nothing about the backend.
            Err(failure @ ProbeFailure::Local(_)) => self.failure = Some(failure.clone()),
            Err(failure) => {
                self.failure = Some(failure.clone());
                let doubt = Some(doubt(failure));
                let was_gone = self.is_gone();
                let other = std::mem::replace(&mut self.doubt, doubt) != doubt;
                change.lossy = self.loss.observe(false);
                change.health = self.health.observe(false, at);
                let news = change.health.is_some() || self.is_gone() != was_gone;
                change.suppressed = match change.health {
                    Some(Transition {
                        from: State::Up, ..
                    }) => self.damping.died(half_life, at),
                    _ => self.damping.look(half_life, at),
                };
                if self.health.state() == State::Down && (other || news) {
                    change.doubt = doubt;
                }
            }
        }
        change
    }

    fn take_load(&mut self, load: &Load, at: Instant) -> Option<bool> {
        let used = use_of(load);
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

    /// Whether it is left out although it answers.
    pub(super) fn is_out(&self) -> bool {
        self.damping.suppressed() || self.watch.out().is_some()
    }

    /// Whether it is left open that it serves, although it is out: nobody answered, or its probes cannot
    /// be believed. With only a few others, that nobody answered is believed; one that answers probes
    /// serves if it is of the last.
    pub(super) fn may_serve(
        &self,
        backend: &config::Backend,
        is_many: bool,
        is_last: bool,
    ) -> bool {
        if self.watch.out() == Some(Reason::Refused) {
            return false;
        }
        match self.doubt {
            _ if self.health(backend) != State::Down => is_many || is_last,
            Some(Doubt::Untrusted) => true,
            Some(Doubt::Silent) => is_many,
            Some(Doubt::None) | None => false,
        }
    }

    /// Whether its open flows have nobody to go on with. A machine or a line that is only busy is silent as well:
    /// new flows go elsewhere at once, but what is open is given up when it was silent for twice as long.
    pub(super) fn is_gone(&self) -> bool {
        let is_sure = self.doubt != Some(Doubt::Silent) || self.health.failed_twice_over();
        self.health.state() == State::Down && is_sure
    }

    pub(super) fn takes_new(&self) -> bool {
        self.drained.is_none() && !self.draining
    }
}

fn doubt(failure: &ProbeFailure) -> Doubt {
    match failure {
        ProbeFailure::Tls(_) | ProbeFailure::Malformed(_) => Doubt::Untrusted,
        ProbeFailure::Timeout => Doubt::Silent,
        _ => Doubt::None,
    }
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
