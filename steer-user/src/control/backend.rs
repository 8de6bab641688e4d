//! What is known of one backend.

use std::time::{Duration, Instant};

use steer_common::tables::NextHop;

use super::operator::Draining;
use crate::config;
use crate::domain::health::{Health, State, Transition};
use crate::domain::rings::{BOUNDS, Nearness};
use crate::journal::Base;
use crate::probe::{DRAINING, Measurement, ProbeFailure};

/// One backend, apart from its configuration.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) health: Health,
    pub(super) nearness: Nearness,
    /// The operator wants no new flows on it.
    pub(super) drained: Option<Draining>,
    /// The weight that the operator gave it in place of its capacity.
    pub(super) weight: Option<u32>,
    /// Its beacon wants no new flows on it.
    pub(super) draining: bool,
    /// The way to it. `None` until the kernel's tables were asked.
    pub(super) way: Option<Option<NextHop>>,
    pub(super) failure: Option<ProbeFailure>,
    pub(super) measured: Option<Instant>,
}

/// What a measurement changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) health: Option<Transition>,
    /// The rings before and after.
    pub(super) ring: Option<(Option<usize>, usize)>,
    pub(super) draining: Option<bool>,
}

impl Change {
    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl Known {
    pub(super) fn new(probe: &config::Probe) -> Self {
        Self {
            health: Health::new(probe.rise, probe.fall),
            nearness: Nearness::default(),
            drained: None,
            weight: None,
            draining: false,
            way: None,
            failure: None,
            measured: None,
        }
    }

    /// One of which only so much is known.
    pub(super) fn from_base(base: &Base) -> Self {
        Self {
            health: base.health.clone(),
            nearness: base.nearness.clone(),
            drained: None,
            weight: None,
            draining: base.draining,
            way: None,
            failure: None,
            measured: None,
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
                change.health = self.health.observe(true, at);
            }
            // It says something about this node, and nothing about the backend.
            Err(failure @ ProbeFailure::Local(_)) => self.failure = Some(failure.clone()),
            Err(failure) => {
                self.failure = Some(failure.clone());
                change.health = self.health.observe(false, at);
            }
        }
        change
    }

    /// Its health; a backend that is not probed counts as up.
    pub(super) fn health(&self, backend: &config::Backend) -> State {
        if backend.probes.is_empty() {
            State::Up
        } else {
            self.health.state()
        }
    }

    /// Its ring; one that was not measured is near if it is in this node's region, else far.
    pub(super) fn ring(&self, backend: &config::Backend, home: &str) -> usize {
        let assumed = if backend.probes.is_empty() && backend.region == home {
            0
        } else {
            BOUNDS.len()
        };
        self.nearness.ring().unwrap_or(assumed)
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.nearness.smoothed()
    }

    pub(super) fn takes_new(&self) -> bool {
        self.drained.is_none() && !self.draining
    }
}
