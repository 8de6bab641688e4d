//! What `steer status` shows.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::Range,
    time::{Instant, SystemTime},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use steer_common::{abi::MemberState, verdict::DropReason};

use super::{Attachment, Controller, DrainStatus};
use crate::{
    config::{self, Config, FirstToken},
    dataplane::{Counters, Dataplane},
    domain::{
        evidence::Verdict,
        health::State,
        latency::{Histogram, Passive},
        load::WHOLE,
    },
};

/// The node, as it is now.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Status {
    /// Its name.
    pub node: String,
    /// Interfaces that the program is attached to.
    pub interfaces: Vec<String>,
    /// How it is attached to each.
    #[serde(default)]
    pub attached: Vec<Attachment>,
    /// Who traces, which slows the data path down.
    #[serde(default)]
    pub traced_by: Option<String>,
    /// The generation of the configuration in use, if the state directory has it.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Until when it has to be confirmed, if it is on trial.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub confirm_by: Option<SystemTime>,
    /// Decisions that are not in the state directory, with the reason: they end with the daemon.
    #[serde(default)]
    pub unsaved: Vec<String>,
    /// Whether tables stay as a daemon before left them, because not all backends are measured yet.
    #[serde(default)]
    pub frozen: bool,
    /// Services, in the order of the configuration.
    pub services: Vec<ServiceStatus>,
    /// Backends, in the order of the configuration.
    pub backends: Vec<BackendStatus>,
    /// Packets dropped, by reason; those that there were.
    pub drops: BTreeMap<String, u64>,
    /// How often what was said against a backend was contradicted, since the daemon began.
    #[serde(default)]
    pub contradicted: u64,
}

/// A service.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its port; 0 means any.
    pub port: u16,
    /// Its protocol.
    pub protocol: String,
    /// Names of its pools, the first choice first.
    pub pools: Vec<String>,
    /// Slots of its table.
    pub slots: usize,
    /// Slots whose open flows belong to another member than new ones.
    pub unsettled: usize,
    /// Whether no backend says anything of its load, so that weights stay as they are.
    #[serde(default)]
    pub silent: bool,
    /// Its members.
    pub members: Vec<MemberStatus>,
    /// Its priority: the lowest is shed first.
    #[serde(default)]
    pub priority: u8,
    /// Whether its new flows are shed.
    #[serde(default)]
    pub shed: bool,
    /// Packets that were refused, by reason; those that there were.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Its classes. What of its clients is in none has the fields above.
    #[serde(default)]
    pub classes: Vec<ClassStatus>,
}

/// A class of a service's clients.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// Prefixes of its clients; none means all.
    pub sources: Vec<String>,
    /// Its DSCPs; none means all.
    pub dscp: Vec<u8>,
    /// Names of its pools, the first choice first.
    pub pools: Vec<String>,
    /// Regions that it may be served from; `None` means any.
    pub regions: Option<Vec<String>>,
    /// Slots of its table.
    pub slots: usize,
    /// Slots whose open flows belong to another member than new ones.
    pub unsettled: usize,
    /// Its priority: the lowest is shed first.
    #[serde(default)]
    pub priority: u8,
    /// Whether its new flows are shed.
    #[serde(default)]
    pub shed: bool,
    /// Packets that were refused, by reason; those that there were.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Parts of its table, from 0 to 1, by backend.
    pub shares: BTreeMap<String, f64>,
}

/// A backend as one service sees it.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct MemberStatus {
    /// Its backend.
    pub backend: String,
    /// Its pool.
    pub pool: String,
    /// What the kernel sends it: up, draining, down or absent.
    pub state: String,
    /// Its part of the table, from 0 to 1.
    pub share: f64,
    /// New flows.
    pub flows: u64,
    /// Packets from clients.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Packets back to clients, in mode `nat`.
    pub replies: u64,
    /// Open connections of the service, if their number is limited.
    #[serde(default)]
    pub in_flight: Option<u64>,
    /// Whether new flows avoid it, for its load or their number.
    #[serde(default)]
    pub hot: bool,
    /// What its packets tell of it, in mode `nat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveStatus>,
}

/// What a member's packets tell of it. Latencies are those of the last minute, as the node saw them.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PassiveStatus {
    /// From SYN to SYN-ACK.
    pub connect: LatencyStatus,
    /// From a request's first byte to the answer's.
    pub first_byte: LatencyStatus,
    /// From a request's first byte to the answer's second burst.
    pub second_burst: LatencyStatus,
    /// Between later bursts.
    pub gap: LatencyStatus,
    /// Which of them is the time to the first token: "first-byte" or "second-burst".
    pub first_token: FirstToken,
    /// Connections that the backend accepted.
    pub accepted: u64,
    /// Connections that the backend refused.
    pub refused: u64,
    /// Connections whose first packet was repeated because no answer came in time.
    pub unanswered: u64,
    /// Connections that the backend reset later.
    pub resets: u64,
    /// Connections that wait for an answer.
    pub waiting: u32,
    /// Those of them that have waited for longer than `silence` of the configuration.
    pub silent: u32,
    /// How long the longest has waited, in milliseconds.
    pub longest_wait_ms: u64,
}

/// A latency's quantiles in microseconds, if there was any.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct LatencyStatus {
    /// How many there were.
    pub count: u64,
    /// The median.
    pub p50_us: Option<u64>,
    /// What 95 % do not exceed.
    pub p95_us: Option<u64>,
    /// What 99 % do not exceed.
    pub p99_us: Option<u64>,
}

impl LatencyStatus {
    fn of(histogram: &Histogram) -> Self {
        let quantile = |share| {
            let time = histogram.quantile(share)?;
            Some(time.as_micros() as u64)
        };
        Self {
            count: histogram.count(),
            p50_us: quantile(0.5),
            p95_us: quantile(0.95),
            p99_us: quantile(0.99),
        }
    }
}

impl PassiveStatus {
    fn of(passive: &Passive, first_token: FirstToken) -> Self {
        let Passive {
            recent,
            signals,
            waiting,
            ..
        } = passive;
        Self {
            connect: LatencyStatus::of(&recent.connect),
            first_byte: LatencyStatus::of(&recent.first_byte),
            second_burst: LatencyStatus::of(&recent.second_burst),
            gap: LatencyStatus::of(&recent.gap),
            first_token,
            accepted: signals.accepted,
            refused: signals.refused,
            unanswered: signals.unanswered,
            resets: signals.resets,
            waiting: waiting.flows,
            silent: waiting.silent,
            longest_wait_ms: waiting.longest.as_millis() as u64,
        }
    }
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// How it is reached.
    pub mode: String,
    /// What probes say: up, degraded, down or unknown; "unprobed" without probes.
    pub health: String,
    /// Whether the operator drains it.
    pub drained: bool,
    /// How far that is.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
    /// Its weight relative to the others of its tier: the operator's word, or its capacity.
    #[serde(default)]
    pub weight: u32,
    /// Whether that is the operator's word.
    #[serde(default)]
    pub weighed: bool,
    /// Whether its beacon says that it drains.
    pub draining: bool,
    /// Smoothed round trip in microseconds.
    pub rtt_us: Option<u64>,
    /// Its ring of round-trip times, 0 the nearest.
    pub ring: Option<usize>,
    /// Milliseconds since it was last measured.
    pub measured_ms_ago: Option<u64>,
    /// How much of itself it uses, smoothed; 1 is all of it.
    #[serde(default)]
    pub used: Option<f64>,
    /// Whether it is too busy for new flows.
    #[serde(default)]
    pub hot: bool,
    /// Why it takes less than it could: it is slow, or loses probes.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// Why it gets no new flows although it answers probes.
    #[serde(default)]
    pub left_out: Option<String>,
    /// A weak sign of trouble that its beacon reports. It changes nothing on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Why the last probe failed, if it did.
    pub failure: Option<String>,
    /// Whether the way to it is known: interface and MAC address.
    pub resolved: bool,
}

/// How the node is, in one line.
pub(super) fn pulse<D>(controller: &Controller<D>, generation: Option<u64>) -> String {
    let up = |b: &&config::Backend| {
        let known = controller.known.get(&b.name);
        known.is_some_and(|known| known.health(b) == State::Up)
    };
    let backends = &controller.config.backends;
    let generation = generation.map_or_else(String::new, |n| format!("generation {n}; "));
    format!(
        "{generation}{} of {} backends up; {} services",
        backends.iter().filter(up).count(),
        backends.len(),
        controller.config.services.len(),
    )
}

pub(super) fn of<D: Dataplane>(controller: &Controller<D>, now: Instant) -> Result<Status> {
    let config = &controller.config;
    let counters = controller.dataplane.counters()?;
    let mut drops = BTreeMap::new();
    for reason in DropReason::ALL {
        let count = counters.drops.get(reason as usize).copied().unwrap_or(0);
        if count > 0 {
            drops.insert(reason.name().to_owned(), count);
        }
    }
    let mut services: Vec<ServiceStatus> = Vec::new();
    for index in 0..controller.policies.len() {
        match (controller.policies[index].class, services.last_mut()) {
            (Some(_), Some(service)) => service.classes.extend(class(controller, index, &counters)),
            _ => services.push(service(controller, index, &counters)?),
        }
    }
    let backends = config
        .backends
        .iter()
        .enumerate()
        .map(|(index, settings)| backend(controller, index, settings, now))
        .collect();
    Ok(Status {
        node: config.node.name.clone(),
        interfaces: config.node.interfaces.clone(),
        attached: Vec::new(),
        contradicted: controller.contradicted,
        traced_by: None,
        generation: None,
        confirm_by: None,
        unsaved: controller.unsaved(),
        frozen: controller.frozen.is_some(),
        services,
        backends,
        drops,
    })
}

fn service<D: Dataplane>(
    controller: &Controller<D>,
    index: usize,
    counters: &Counters,
) -> Result<ServiceStatus> {
    let config = &controller.config;
    let place = controller.policies[index].service;
    let settings = &config.services[place];
    let range = &controller.tables[index];
    let own = shares(controller, range);
    let members = config
        .members(settings)
        .into_iter()
        .map(|backend| {
            let id = controller.numbers.members[&(place, backend)];
            let count = counters
                .members
                .get(usize::from(id))
                .copied()
                .unwrap_or_default();
            let own = own.get(&id).copied().unwrap_or(0);
            let state = MemberState::from_byte(controller.dataplane.member(id).state);
            let first_token = config.backends[backend].first_token;
            let passive = controller.passive_of(id)?;
            Ok(MemberStatus {
                backend: config.backends[backend].name.clone(),
                pool: pool_of(config, settings, backend),
                state: match state {
                    MemberState::Up => "up",
                    MemberState::Draining => "draining",
                    MemberState::Down => "down",
                    MemberState::Absent => "absent",
                }
                .to_owned(),
                share: own as f64 / range.len().max(1) as f64,
                flows: count.flows,
                packets: count.packets,
                bytes: count.bytes,
                replies: count.replies,
                in_flight: config.backends[backend].max_in_flight.map(|_| {
                    let count = controller.dataplane.in_flight(id);
                    u64::try_from(count).unwrap_or(0)
                }),
                hot: controller.is_hot(id),
                passive: passive.map(|passive| PassiveStatus::of(&passive, first_token)),
            })
        })
        .collect::<Result<_>>()?;
    Ok(ServiceStatus {
        name: settings.name.clone(),
        address: settings.address.to_string(),
        port: settings.port,
        protocol: settings.protocol.as_str().to_owned(),
        pools: names(config, &settings.pools),
        slots: range.len(),
        unsettled: controller.unsettled.count(range),
        silent: controller.is_silent(&settings.name),
        members,
        priority: settings.priority,
        shed: controller.shedding.sheds(index, settings.priority),
        refused: refused(controller, index, counters),
        classes: Vec::new(),
    })
}

/// What was refused for a policy, by reason.
fn refused<D: Dataplane>(
    controller: &Controller<D>,
    index: usize,
    counters: &Counters,
) -> BTreeMap<String, u64> {
    let number = controller.numbers.policies[index];
    let refused = counters.refused.get(&number).copied().unwrap_or_default();
    refused
        .counts()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.name().to_owned(), count))
        .collect()
}

/// Slots of a table by their first choice.
fn shares<D: Dataplane>(controller: &Controller<D>, range: &Range<u32>) -> HashMap<u16, usize> {
    let mut own: HashMap<u16, usize> = HashMap::new();
    for slot in controller.dataplane.slots(range.clone()) {
        *own.entry(slot.first).or_default() += 1;
    }
    own
}

fn names(config: &Config, pools: &[usize]) -> Vec<String> {
    let pools = pools.iter().map(|pool| config.pools[*pool].name.clone());
    pools.collect()
}

fn class<D: Dataplane>(
    controller: &Controller<D>,
    index: usize,
    counters: &Counters,
) -> Option<ClassStatus> {
    let config = &controller.config;
    let id = controller.policies[index];
    let policy = config.policy(id);
    let class = policy.class?;
    let range = &controller.tables[index];
    let own = shares(controller, range);
    let share = |backend: usize| {
        let member = controller.numbers.members[&(id.service, backend)];
        let own = own.get(&member).copied().unwrap_or(0);
        own as f64 / range.len().max(1) as f64
    };
    let name = |backend: usize| config.backends[backend].name.clone();
    let prefix = |(address, len): &(IpAddr, u8)| format!("{address}/{len}");
    Some(ClassStatus {
        name: class.name.clone(),
        sources: class.sources.iter().map(prefix).collect(),
        dscp: class.dscp.clone(),
        pools: names(config, policy.pools),
        regions: policy.regions.map(<[String]>::to_vec),
        slots: range.len(),
        unsettled: controller.unsettled.count(range),
        priority: policy.priority,
        shed: controller.shedding.sheds(index, policy.priority),
        refused: refused(controller, index, counters),
        shares: policy
            .members(config)
            .into_iter()
            .map(|backend| (name(backend), share(backend)))
            .collect(),
    })
}

fn pool_of(config: &Config, service: &config::Service, backend: usize) -> String {
    let classes = service.classes.iter().flat_map(|class| &class.pools);
    let pools = service.pools.iter().chain(classes);
    let mut pools = pools.map(|pool| &config.pools[*pool]);
    let found = pools.find(|pool| pool.backends.contains(&backend));
    found.map(|pool| pool.name.clone()).unwrap_or_default()
}

fn backend<D: Dataplane>(
    controller: &Controller<D>,
    index: usize,
    settings: &config::Backend,
    now: Instant,
) -> BackendStatus {
    let known = controller.known.get(&settings.name);
    let weight = known.and_then(|known| known.weight);
    let degraded = degraded(controller, &settings.name);
    let health = match known.map(|known| known.health(settings)) {
        _ if settings.probes.is_empty() => "unprobed",
        Some(State::Up) if !degraded.is_empty() => "degraded",
        Some(State::Up) => "up",
        // Probes fail, and what they say is contradicted.
        Some(State::Down) if known.is_some_and(|known| known.verdict.serves()) => "degraded",
        Some(State::Down) => "down",
        Some(State::Unknown) | None => "unknown",
    };
    let millis = |at: Instant| now.saturating_duration_since(at).as_millis() as u64;
    BackendStatus {
        name: settings.name.clone(),
        address: settings.address.to_string(),
        mode: match settings.mode {
            config::Mode::Nat { .. } => "nat",
            config::Mode::Ipip => "ipip",
            config::Mode::Gue => "gue",
            config::Mode::L2 => "l2",
        }
        .to_owned(),
        health: health.to_owned(),
        drained: known.is_some_and(|known| known.drained.is_some()),
        drain: controller.drain_status(index),
        weight: weight.unwrap_or(settings.capacity),
        weighed: weight.is_some(),
        draining: known.is_some_and(|known| known.draining),
        rtt_us: known.and_then(|known| known.rtt().map(|rtt| rtt.as_micros() as u64)),
        ring: known.and_then(|known| known.nearness.ring()),
        measured_ms_ago: known.and_then(|known| known.measured.map(millis)),
        used: known.and_then(|known| {
            let stale_after = controller.config.balance.stale_after;
            let used = known.load.fresh(stale_after, now)?;
            Some(f64::from(used) / f64::from(WHOLE))
        }),
        hot: known.is_some_and(|known| known.hot),
        degraded,
        left_out: known.and_then(|known| match (known.watch.out(), known.verdict) {
            (Some(reason), _) => Some(reason.to_string()),
            (None, verdict @ (Verdict::Ejected(_) | Verdict::Down(_))) => Some(verdict.to_string()),
            (None, Verdict::Serving | Verdict::Contradicted(_)) => known
                .damping
                .suppressed()
                .then(|| "it died again and again".to_owned()),
        }),
        failure: known.and_then(|known| known.failure.as_ref().map(ToString::to_string)),
        hint: known.and_then(|known| known.hint.clone()),
        resolved: known.is_some_and(|known| matches!(known.way, Some(Some(_)))),
    }
}

/// Why a backend takes less than it could.
fn degraded<D: Dataplane>(controller: &Controller<D>, name: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    let known = controller.known.get(name);
    if known.is_some_and(|known| known.loss.lossy()) {
        reasons.push("loses probes".to_owned());
    }
    if let Some(Verdict::Contradicted(by)) = known.map(|known| known.verdict) {
        reasons.push(format!("probes fail, and {by}"));
    }
    let index = controller.concern.place(name);
    let lost = index.map_or(0, |index| controller.outliers.lost(index));
    if lost > 0 {
        reasons.push(format!(
            "fails {:.0} % more of its connections than its peers",
            f64::from(lost) / 10_000.0
        ));
    }
    let mut states = controller.balances.values();
    if states.any(|state| state.memory(name).slow) {
        reasons.push("much slower than its peers".to_owned());
    }
    reasons
}
