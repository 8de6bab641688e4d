//! Events of the journal: the change, its author or cause, its inputs, and its effect.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use steer_probe::probe::{
    DRAINING, Load, Measurement, OrcaLoadReport, ProbeFailure, Sample, confirmation,
};

use crate::domain::{
    balance::{self, Cause, Pool, Settings, State, Tier},
    evidence::{self, Inputs},
    health::{self, Health},
    loss::Loss,
    passive::{Counts, Verdict, Written},
    rings::Nearness,
    rules::{Doubt, Rules},
    silence::PeerTraffic,
    succession::RouterPort,
};

/// A change of steering, or of the journal's own parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A daemon started. Nothing is known of backends.
    Start {
        /// Version of the daemon.
        version: String,
        /// Name of the node.
        node: String,
        /// Whether it reused the maps of a previous daemon.
        adopted: bool,
        /// Bytes of a torn last line that were truncated.
        cut: u64,
    },
    /// A configuration became active. Its effects follow as events of their own.
    Configured {
        /// Cause of the activation.
        why: ReplanCause,
        /// User who asked for it.
        by: String,
        /// Generation, if there is one.
        generation: Option<u64>,
        /// SHA-256 of the document.
        fingerprint: String,
        /// Deadline of the confirmation.
        #[serde(with = "humantime_serde")]
        until: Option<SystemTime>,
        /// Backends drained by the operator.
        drained: Vec<String>,
        /// Weights set by the operator in place of capacities.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        weights: BTreeMap<String, u32>,
    },
    /// The pending generation was confirmed.
    Confirmed {
        /// User who confirmed it.
        by: String,
        /// Generation.
        generation: u64,
    },
    /// The operator drained a backend, or ended its drain.
    Drained {
        /// User who did it.
        by: String,
        /// Name of the backend.
        backend: String,
        /// Whether it drains now.
        drained: bool,
        /// Time at which its open flows are ended, if any.
        #[serde(
            default,
            with = "humantime_serde",
            skip_serializing_if = "Option::is_none"
        )]
        until: Option<SystemTime>,
    },
    /// The operator changed a setting of the running daemon.
    Tuned {
        /// User who did it.
        by: String,
        /// Setting.
        name: String,
        /// Old value.
        from: String,
        /// New value.
        to: String,
    },
    /// The deadline of a drain passed: open flows are reset or moved.
    DrainDeadline {
        /// Name of the backend.
        backend: String,
    },
    /// The operator set the weight of a backend, or removed it.
    WeightSet {
        /// User who did it.
        by: String,
        /// Name of the backend.
        backend: String,
        /// Weight; `None` if the capacity applies again.
        weight: Option<u32>,
    },
    /// The state of a backend changed.
    Backend {
        /// Name of the backend.
        backend: String,
        /// State before the first of the probes.
        base: Base,
        /// Last probes; the last one caused the change.
        probes: Vec<Probe>,
        /// Health before and after.
        health: Option<(health::State, health::State)>,
        /// Ring before and after.
        ring: Option<(Option<usize>, usize)>,
        /// Whether its beacon reports that it drains.
        draining: Option<bool>,
        /// Whether flap damping suppresses it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        suppressed: Option<bool>,
        /// Whether it loses probes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lossy: Option<bool>,
        /// Whether it is too busy for new flows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hot: Option<bool>,
        /// Remaining uncertainty while it is down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        doubt: Option<Doubt>,
    },
    /// The passive health of a backend changed.
    OutlierDetection {
        /// Name of the backend.
        backend: String,
        /// State before.
        before: Written,
        /// Connections since then.
        counts: Counts,
        /// Other knowledge at that time.
        #[serde(default, skip_serializing_if = "crate::omit::is_default")]
        peer_traffic: PeerTraffic,
        /// Conclusion.
        verdict: Verdict,
    },
    /// A connection of this node's own confirmed or contradicted what packets suggest.
    OwnConnection {
        /// Name of the backend.
        backend: String,
        /// State before.
        before: Written,
        /// Outcome of the connection.
        outcome: confirmation::Outcome,
        /// Conclusion.
        verdict: Verdict,
    },
    /// The conclusion from all signals of a backend changed.
    Verdict {
        /// Name of the backend.
        backend: String,
        /// Inputs of the conclusion.
        inputs: Inputs,
        /// Conclusion.
        verdict: evidence::Verdict,
    },
    /// A policy entered or left panic mode.
    Panic {
        /// Service, or `service/class`.
        service: String,
        /// Whether it is in panic mode now.
        panic_mode: bool,
        /// Number of healthy backends.
        healthy: usize,
        /// Number of all backends.
        total: usize,
    },
    /// A tick of the balancing loop changed the weights of a table.
    Balanced {
        /// Service, or `service/class`.
        service: String,
        /// Reason for the tick.
        cause: Cause,
        /// Settings.
        settings: Settings,
        /// Pools of the chain.
        pools: Vec<Pool>,
        /// Members with their loads.
        members: Vec<balance::Member>,
        /// State before.
        before: State,
        /// State after.
        after: State,
        /// Part of the table that moves, in millionths.
        moved: u32,
    },
    /// The next hop to a backend changed.
    NextHop {
        /// Name of the backend.
        backend: String,
        /// Index of the outgoing interface; `None` without a next hop.
        interface: Option<u32>,
    },
    /// Answers to clients behind a router go to another one, or to itself again.
    Router {
        /// MAC address that their packets come from.
        router: String,
        /// The number of the interface that they come in by.
        interface: u32,
        /// Returns the VLAN; 0 is untagged.
        #[serde(default, skip_serializing_if = "crate::omit::is_default")]
        vlan: u16,
        /// The gateway that answers go by; `None` once none is known.
        gateway: Option<IpAddr>,
        /// Interface and MAC address of that gateway.
        ports: Vec<RouterPort>,
        /// Next hop of replies from now on.
        to: Option<RouterPort>,
    },
    /// Slots of a table changed.
    Table {
        /// Service, or `service/class`.
        service: String,
        /// Reason for the change.
        why: String,
        /// Whether `inputs` are complete.
        whole: bool,
        /// Inputs changed since the last event of this table in this run.
        inputs: Vec<Input>,
        /// Backends that are no longer inputs.
        gone: Vec<String>,
        /// Weight that no backend gets: the part beyond all budgets.
        #[serde(default, skip_serializing_if = "crate::omit::is_default")]
        undistributed: u32,
        /// Number of slots in the table.
        slots: usize,
        /// Number of changed slots.
        changed: usize,
        /// SHA-256 over the names in all slots.
        digest: String,
        /// Share of first choices, for the backends in `inputs`.
        shares: BTreeMap<String, f64>,
    },
    /// Load shedding of a pool changed: new flows with low priorities to it are rejected, or
    /// accepted again.
    Shedding {
        /// Name of the pool.
        pool: String,
        /// Number of hot members among those that take new flows.
        hot: usize,
        /// Number of members that take new flows.
        members: usize,
        /// Priorities below this are shed; 0 sheds none.
        below: u8,
    },
    /// A member removed from the configuration has no flows left, and is deleted.
    MemberReleased {
        /// Number of the member.
        member: u16,
    },
    /// Events could not be written.
    Gap {
        /// Number of lost events.
        lost: u64,
    },
    /// The daemon stopped as requested.
    Stop,
}

/// Cause of a configuration's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplanCause {
    /// Start of a daemon.
    Start,
    /// `steer config apply`.
    Apply,
    /// SIGHUP.
    Reload,
    /// `steer config rollback`.
    Rollback,
    /// The pending generation was not confirmed in time.
    Unconfirmed,
    /// Another configuration could not be activated.
    Failed,
    /// Continuation of an earlier activation, whose journal file may have been rotated away.
    Continued,
}

/// State of a backend with the inputs it depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// Health, with thresholds and the probes that count.
    pub health: Health,
    /// Nearness, with the round trips that count.
    pub nearness: Nearness,
    /// Whether its beacon reports that it drains.
    pub draining: bool,
    /// Other judgements.
    pub judged: Judged,
}

/// Judgements of a backend by rules other than rise and fall. Times are in microseconds of the
/// journal's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Rules.
    pub rules: Rules,
    /// Flap-damping penalty and its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty: Option<(f64, u64)>,
    /// Whether flap damping suppresses it.
    pub suppressed: bool,
    /// Results of its last probes.
    pub loss: Loss,
    /// Utilization in millionths, and the time of its report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<(u32, u64)>,
    /// Whether it is too busy for new flows.
    pub hot: bool,
    /// Passive health at the time of the event.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub watch: Written,
    /// Remaining uncertainty since its last probe failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// Conclusion from all signals at the time of the event.
    #[serde(default, skip_serializing_if = "is_serving")]
    pub verdict: evidence::Verdict,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_serving(verdict: &evidence::Verdict) -> bool {
    *verdict == evidence::Verdict::Serving
}

/// A probe, reduced to what decisions use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Time of the result, in microseconds of the journal's clock.
    pub t: u64,
    /// Outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Outcome of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered.
    Answered {
        /// Round-trip time in nanoseconds.
        rtt_ns: u64,
        /// Whether the beacon reports that its backend drains.
        draining: bool,
        /// Reported load, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        load: Option<Box<Load>>,
    },
    /// Failed.
    Failed(ProbeFailure),
}

/// A backend as a candidate of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Name of the backend.
    pub backend: String,
    /// Index of its pool in the chain.
    pub pool: usize,
    /// Ring.
    pub ring: usize,
    /// Price, if it decides the tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// Returns whether new flows may go to it.
    pub healthy: bool,
    /// Capacity.
    pub capacity: u32,
    /// Weight in the table; with the undistributed one, all weights sum up to a billion.
    pub weight: u32,
    /// Whether its tier is so busy that its second choices are in the next one.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub full: bool,
    /// Whether second choices of other pools may be in its tier.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub open: bool,
}

impl Input {
    /// Returns its tier.
    pub(crate) fn tier(&self) -> Tier {
        match self.cost {
            Some(cost) => (self.pool, 0, cost),
            None => (self.pool, self.ring + 1, 0),
        }
    }
}

impl Probe {
    /// Returns the part of a measurement that decisions use; `t` is its time in microseconds of the
    /// journal's clock.
    pub(crate) fn from_measurement(measurement: &Measurement, t: u64) -> Self {
        let outcome = match &measurement.outcome {
            Ok(sample) => Outcome::Answered {
                rtt_ns: u64::try_from(sample.rtt.as_nanos()).unwrap_or(u64::MAX),
                draining: sample
                    .report
                    .named_metrics
                    .get(DRAINING)
                    .is_some_and(|value| *value > 0.0),
                load: (sample.load != Load::default()).then(|| Box::new(sample.load.clone())),
            },
            Err(failure) => Outcome::Failed(failure.clone()),
        };
        Self { t, outcome }
    }

    /// Returns a measurement that leads to the same decisions as the original.
    pub(crate) fn measurement(&self, backend: &str, epoch: Instant) -> Measurement {
        let outcome = match &self.outcome {
            Outcome::Answered {
                rtt_ns,
                draining,
                load,
            } => {
                let mut report = OrcaLoadReport::default();
                if *draining {
                    report.named_metrics.insert(DRAINING.to_owned(), 1.0);
                }
                Ok(Sample {
                    rtt: Duration::from_nanos(*rtt_ns),
                    handshake: None,
                    report,
                    load: load.as_deref().cloned().unwrap_or_default(),
                })
            }
            Outcome::Failed(failure) => Err(failure.clone()),
        };
        Measurement {
            backend: backend.to_owned(),
            at: epoch + Duration::from_micros(self.t),
            outcome,
        }
    }
}
