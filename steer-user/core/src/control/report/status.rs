//! Status of the node, as `steer status` shows it.

use std::{collections::BTreeMap, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::attachment::Attachment;
use crate::{
    config::FirstToken,
    control::backends::drains::DrainStatus,
    domain::latency::{Histogram, Passive},
};

/// The node, as it is now.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Status {
    /// Its name.
    pub node: String,
    /// Interfaces that the program is attached to.
    pub interfaces: Vec<String>,
    /// Attachment to each of them.
    #[serde(default)]
    pub attached: Vec<Attachment>,
    /// User who traces, which slows the data path down.
    #[serde(default)]
    pub traced_by: Option<String>,
    /// The generation of the configuration in use, if the state directory has it.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Time until which it has to be confirmed, if it is pending.
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
    /// Number of contradictions of evidence against a backend, since the daemon started.
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
    pub migrating: usize,
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
    pub migrating: usize,
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
    /// State in the kernel: up, draining, down or absent.
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
    /// Measurements by its packets, in mode `nat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveStatus>,
}

/// Measurements of a member by its packets. Latencies are those of the last minute, as the node saw them.
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
    /// Latency that is the time to the first token: "first-byte" or "second-burst".
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
    /// Longest wait of them, in milliseconds.
    pub longest_wait_ms: u64,
}

/// A latency's quantiles in microseconds, if there was any.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct LatencyStatus {
    /// Number of samples.
    pub count: u64,
    /// The median.
    pub p50_us: Option<u64>,
    /// 95th percentile.
    pub p95_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
}

impl LatencyStatus {
    pub(crate) fn from_histogram(histogram: &Histogram) -> Self {
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
    pub(crate) fn from_measurements(passive: &Passive, first_token: FirstToken) -> Self {
        let Passive {
            recent,
            signals,
            waiting,
            ..
        } = passive;
        Self {
            connect: LatencyStatus::from_histogram(&recent.connect),
            first_byte: LatencyStatus::from_histogram(&recent.first_byte),
            second_burst: LatencyStatus::from_histogram(&recent.second_burst),
            gap: LatencyStatus::from_histogram(&recent.gap),
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
    /// Mode in which it is reached.
    pub mode: String,
    /// Health by probes: up, degraded, down or unknown; "unprobed" without probes.
    pub health: String,
    /// Whether the operator drains it.
    pub drained: bool,
    /// Progress of that drain.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
    /// Its weight relative to the others of its tier: one set by the operator, or its capacity.
    #[serde(default)]
    pub weight: u32,
    /// Whether the operator set that weight.
    #[serde(default)]
    pub weight_is_set: bool,
    /// Whether its beacon says that it drains.
    pub draining: bool,
    /// Smoothed round trip in microseconds.
    pub rtt_us: Option<u64>,
    /// Its ring of round-trip times, 0 the nearest.
    pub ring: Option<usize>,
    /// Milliseconds since it was last measured.
    pub measured_ms_ago: Option<u64>,
    /// Smoothed utilization; 1 is full. Absent without a recent load report.
    #[serde(default)]
    pub used: Option<f64>,
    /// Whether it is too busy for new flows.
    #[serde(default)]
    pub hot: bool,
    /// Reasons why it takes less than it could: it is slow, or loses probes.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// Reason why it is ejected: it gets no new flows although it answers probes.
    #[serde(default)]
    pub ejected_for: Option<String>,
    /// A weak sign of trouble that its beacon reports. It changes nothing on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Failure of the last probe, if it failed.
    pub failure: Option<String>,
    /// Whether the next hop to it is known: interface and MAC address.
    pub resolved: bool,
}
