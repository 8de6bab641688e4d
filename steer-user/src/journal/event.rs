//! What the journal tells of: what changed, by whom or what, from which inputs, and to what effect.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    domain::{
        balance::{self, Cause, Pool, Settings, State, Tier},
        confirmation,
        evidence::{self, Inputs},
        health::{self, Health},
        loss::Loss,
        passive::{Counts, Verdict, Written},
        rings::Nearness,
        rules::{Doubt, Rules},
        silence::Around,
        succession::RouterPort,
    },
    probe::{DRAINING, Load, Measurement, OrcaLoadReport, ProbeFailure, Sample},
};

/// One change of steering, or of what the journal itself goes by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A daemon began. Nothing is known of backends.
    Start {
        /// Its version.
        version: String,
        /// The node's name.
        node: String,
        /// Whether it took up the maps of another one.
        adopted: bool,
        /// Bytes of a torn last line that were cut off.
        cut: u64,
    },
    /// A configuration counts from now on. What it moved is told behind it.
    Configured {
        /// What made it count.
        why: Why,
        /// Who asked.
        by: String,
        /// Its generation, if there is one.
        generation: Option<u64>,
        /// SHA-256 of the document.
        fingerprint: String,
        /// Until when it has to be confirmed.
        #[serde(with = "humantime_serde")]
        until: Option<SystemTime>,
        /// Backends that the operator drains.
        drained: Vec<String>,
        /// Weights that the operator gave backends in place of their capacity.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        weights: BTreeMap<String, u32>,
    },
    /// The generation on trial is one to go back to.
    Confirmed {
        /// Who said so.
        by: String,
        /// The generation.
        generation: u64,
    },
    /// The operator drains a backend, or no longer.
    Drained {
        /// Who said so.
        by: String,
        /// The backend.
        backend: String,
        /// Whether it is drained now.
        drained: bool,
        /// When its open flows are ended, if they are.
        #[serde(
            default,
            with = "humantime_serde",
            skip_serializing_if = "Option::is_none"
        )]
        until: Option<SystemTime>,
    },
    /// The operator changed what the running daemon goes by.
    Tuned {
        /// Who did.
        by: String,
        /// What.
        name: String,
        /// Its value before.
        from: String,
        /// Its value now.
        to: String,
    },
    /// A drain's deadline has passed: open flows are reset or moved.
    DrainOver {
        /// The backend.
        backend: String,
    },
    /// The operator gave a backend a weight in place of its capacity, or took it back.
    Weighed {
        /// Who said so.
        by: String,
        /// The backend.
        backend: String,
        /// The weight; `None` if its capacity counts again.
        weight: Option<u32>,
    },
    /// What is concluded of a backend changed.
    Backend {
        /// The backend.
        backend: String,
        /// What was concluded before the first of the probes.
        base: Base,
        /// The last probes, of which the last one made the change.
        probes: Vec<Probe>,
        /// Its health before and after.
        health: Option<(health::State, health::State)>,
        /// Its ring before and after.
        ring: Option<(Option<usize>, usize)>,
        /// Whether its beacon says that it drains.
        draining: Option<bool>,
        /// Whether it is left out for dying again and again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        suppressed: Option<bool>,
        /// Whether it loses probes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lossy: Option<bool>,
        /// Whether it is too busy for new flows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hot: Option<bool>,
        /// What is left open of it while it is down.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        doubt: Option<Doubt>,
    },
    /// What connections tell of a backend changed.
    Passive {
        /// The backend.
        backend: String,
        /// What was known before.
        before: Written,
        /// Connections since.
        counts: Counts,
        /// What was known besides.
        #[serde(default, skip_serializing_if = "is_nothing")]
        around: Around,
        /// What follows.
        verdict: Verdict,
    },
    /// A connection of this node's own confirmed or contradicted what packets look like.
    OwnConnection {
        /// The backend.
        backend: String,
        /// What was known before.
        before: Written,
        /// How it ended.
        outcome: confirmation::Outcome,
        /// What follows.
        verdict: Verdict,
    },
    /// What is concluded from all signals of a backend changed.
    Verdict {
        /// The backend.
        backend: String,
        /// All that it depends on.
        inputs: Inputs,
        /// The conclusion.
        verdict: evidence::Verdict,
    },
    /// So many backends of a policy's pools are out that probes are not believed, or no longer.
    Panic {
        /// The service, or `service/class`.
        service: String,
        /// Whether that is so now.
        panics: bool,
        /// Backends that are healthy.
        healthy: usize,
        /// Of so many.
        of: usize,
    },
    /// A step of a table's weights.
    Balanced {
        /// The service, or `service/class`.
        service: String,
        /// Why it was made.
        cause: Cause,
        /// What it went by.
        settings: Settings,
        /// The pools of the chain.
        pools: Vec<Pool>,
        /// Their members, with their loads.
        members: Vec<balance::Member>,
        /// What was remembered of earlier steps.
        before: State,
        /// And is now.
        after: State,
        /// The part of the table that moves, in millionths.
        moved: u32,
    },
    /// The way to a backend changed.
    Way {
        /// The backend.
        backend: String,
        /// The number of the interface that it leads by; `None` if there is no way.
        interface: Option<u32>,
    },
    /// Answers to clients behind a router go to another one, or to itself again.
    Router {
        /// MAC address that their packets come from.
        router: String,
        /// The number of the interface that they come in by.
        interface: u32,
        /// The VLAN; 0 is untagged.
        #[serde(default, skip_serializing_if = "is_untagged")]
        vlan: u16,
        /// The gateway that answers go by; `None` once none is known.
        gateway: Option<IpAddr>,
        /// Where that gateway is.
        ports: Vec<RouterPort>,
        /// Where answers go.
        to: Option<RouterPort>,
    },
    /// Slots of a table have other choices.
    Table {
        /// The service, or `service/class`.
        service: String,
        /// What made them change.
        why: String,
        /// Whether `inputs` are all of them.
        whole: bool,
        /// What of the inputs changed since the last event of this table in this run.
        inputs: Vec<Input>,
        /// Backends that are no inputs any more.
        gone: Vec<String>,
        /// The weight of nobody: what is beyond all budgets.
        #[serde(default, skip_serializing_if = "is_zero")]
        nobody: u32,
        /// Slots of the table.
        slots: usize,
        /// How many of them changed.
        changed: usize,
        /// SHA-256 over the names of all slots' choices.
        digest: String,
        /// The share of first choices, of the backends in `inputs`.
        shares: BTreeMap<String, f64>,
    },
    /// New flows of low priorities are shed where they would go to a pool, or no longer.
    Shedding {
        /// The pool.
        pool: String,
        /// How many of its members that take new flows are hot.
        hot: usize,
        /// How many take new flows.
        members: usize,
        /// Priorities below this are shed; 0 sheds none.
        below: u8,
    },
    /// A member that the configuration no longer has is free of flows, and gone.
    Gone {
        /// Its number.
        member: u16,
    },
    /// So many events could not be written.
    Gap {
        /// How many.
        lost: u64,
    },
    /// The daemon ended as it was asked to.
    Stop,
}

/// What makes a configuration count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A daemon began with it.
    Start,
    /// `steer config apply`.
    Apply,
    /// SIGHUP.
    Reload,
    /// `steer config rollback`.
    Rollback,
    /// Nobody confirmed the one on trial.
    Unconfirmed,
    /// Another one could not be put to work.
    Failed,
    /// It did before; the file of the journal that said so may be gone.
    Continued,
}

/// What is concluded of a backend, and from how much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Base {
    /// Its health, with the thresholds and the probes that count.
    pub health: Health,
    /// Its nearness, with the round trips that count.
    pub nearness: Nearness,
    /// Whether its beacon says that it drains.
    pub draining: bool,
    /// How it was judged besides.
    pub judged: Judged,
}

/// What of a backend is judged by more than its thresholds. Times are in microseconds of the journal's
/// clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// By what.
    pub rules: Rules,
    /// The penalty for dying, and when it was that much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty: Option<(f64, u64)>,
    /// Whether it is left out for it.
    pub suppressed: bool,
    /// Results of the last probes.
    pub loss: Loss,
    /// Its use, in millionths, and when it was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<(u32, u64)>,
    /// Whether it is too busy for new flows.
    pub hot: bool,
    /// What connections tell of it, at the time of the event.
    #[serde(default, skip_serializing_if = "is_unwritten")]
    pub watch: Written,
    /// What is left open of it since its last probe failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// What was concluded from all signals, at the time of the event.
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

/// A probe, with what of it decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// When it was known, in microseconds of the journal's clock.
    pub t: u64,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered.
    Answered {
        /// Round trip in nanoseconds.
        rtt_ns: u64,
        /// Whether the beacon says that its backend drains.
        draining: bool,
        /// The load that was reported, if there was any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        load: Option<Box<Load>>,
    },
    /// It was not.
    Failed(ProbeFailure),
}

/// A backend as a candidate of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The backend.
    pub backend: String,
    /// The place of its pool in the chain.
    pub pool: usize,
    /// Its ring.
    pub ring: usize,
    /// Its price, where it is in its tier for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// Whether new flows may go to it.
    pub healthy: bool,
    /// Its capacity.
    pub capacity: u32,
    /// Its weight in the table; those of all, and of nobody, are a billion together.
    pub weight: u32,
    /// Whether its tier is so busy that its second choices are behind it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub full: bool,
    /// Whether others' second choices may be in its tier although its pool is another one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub open: bool,
}

impl Input {
    /// The tier that it is in.
    pub(crate) fn tier(&self) -> Tier {
        match self.cost {
            Some(cost) => (self.pool, 0, cost),
            None => (self.pool, self.ring + 1, 0),
        }
    }
}

fn is_nothing(around: &Around) -> bool {
    *around == Around::default()
}

fn is_unwritten(watch: &Written) -> bool {
    *watch == Written::default()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_untagged(vlan: &u16) -> bool {
    *vlan == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Probe {
    /// What of a measurement decides; `t` is its time in microseconds of the journal's clock.
    pub(crate) fn of(measurement: &Measurement, t: u64) -> Self {
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

    /// A measurement that decides as the one that it was made of.
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
