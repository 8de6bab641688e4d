//! The document as written; only types and keys are checked. Doc comments of keys are their
//! descriptions in the schema and the reference.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::spanned::Spanned;
use super::{End, FirstToken, OpenFlows, Protocol, ReplyFilter, XdpMode};

pub(super) type Text = Spanned<String>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    /// Name of the node, also in its certificate.
    pub name: Text,
    /// Region of the node, also in its certificate.
    pub region: Text,
    /// Zone of the node: backends in the same zone count as nearest until they are measured.
    #[serde(default)]
    pub zone: String,
    /// Interfaces that receive packets of clients and, in mode nat, answers of backends.
    pub interfaces: Spanned<Vec<Text>>,
    /// Additional MAC addresses of this node, such as that of a virtual router, which no device
    /// shows. Addresses of its interfaces and of devices on top of them are known. Frames for other
    /// addresses pass.
    #[serde(default)]
    pub macs: Vec<Text>,
    /// Whether frames for any MAC address are steered, including broadcast (default false).
    #[serde(default)]
    pub accept_any_mac: bool,
    /// Attach mode of the XDP program (default native).
    #[serde(default)]
    pub xdp_mode: XdpMode,
    /// Folder of generations, the journal and operator state (default /var/lib/steer).
    pub state_dir: Option<Text>,
    /// Path of the API's Unix socket (default /run/steer/steer.sock).
    pub socket: Option<Text>,
    /// Mount point of the BPF file system (default /sys/fs/bpf).
    pub bpffs: Option<Text>,
    /// File with the seed of the flow hash, as 32 or more hexadecimal digits. It decides which
    /// backend a flow gets: use the same seed on all nodes behind one router, and do not make it
    /// readable for everyone. Without it, the node generates its own.
    pub flow_seed_file: Option<Text>,
    pub generations: Option<Spanned<u32>>,
    pub journal_mib: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nat {
    /// Source addresses for packets to backends; answers to them must be routed to this node.
    #[serde(default)]
    pub addresses: Vec<Text>,
    /// Range of source ports, used by each address (default 20000-59999).
    pub ports: Option<Text>,
    pub opening_timeout: Option<Text>,
    pub udp_unassured_timeout: Option<Text>,
    pub closed_timeout: Option<Text>,
    /// Interfaces accepted for answers of backends: "strict" accepts only the interface and VLAN of
    /// the next hop to the backend, "loose" accepts any, for backends with several routes to this
    /// node (default strict).
    #[serde(default)]
    pub reply_filter: ReplyFilter,
    /// Whether TCP segments that open or close a connection need a correct checksum to have any
    /// effect (default true). Set it to false only if clients run on this host and its interfaces
    /// leave checksums to hardware.
    pub verify_checksums: Option<bool>,
    pub burst_gap: Option<Text>,
    pub silence: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Encap {
    /// Outer source addresses or prefixes, at most one of each family.
    #[serde(default)]
    pub sources: Vec<Text>,
    /// UDP port of backends in mode gue (default 6080).
    pub gue_port: Option<Spanned<u16>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admission {
    /// Addresses and prefixes of clients that services drop.
    #[serde(default)]
    pub deny: Vec<Text>,
    pub source_v4_bits: Option<Spanned<u32>>,
    pub source_v6_bits: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub flows: Option<Spanned<u32>>,
    pub nat_flows: Option<Spanned<u32>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Quic {
    /// Config rotation: the first three bits of connection ids, 0 to 6, different in each section.
    pub rotation: Spanned<u32>,
    /// Length of the server id in bytes, 1 to 8 (default 4).
    pub server_id_length: Option<Spanned<u32>>,
    /// Length of the random nonce after it in bytes, at least 4, and with the server id at most 19
    /// (default 7).
    pub nonce_length: Option<Spanned<u32>>,
    /// File with the AES-128 key that encrypts both, as 32 hexadecimal digits, so that observers
    /// cannot see which server a connection id names. Without it they are readable.
    pub key_file: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    pub interval: Option<Text>,
    pub timeout: Option<Text>,
    pub rise: Option<Spanned<u32>>,
    pub fall: Option<Spanned<u32>>,
    pub flap_half_life: Option<Text>,
    pub handshake_every: Option<Text>,
    pub budget: Option<Spanned<u32>>,
    /// File of the CA for HTTPS and HTTP/3 probes (default: any certificate is accepted).
    pub http_ca: Option<Text>,
    /// Host name in HTTP probes and in the certificates of their servers (default: the backend's
    /// address).
    pub http_name: Option<Text>,
    /// File of the CA of beacon certificates.
    pub ca: Option<Text>,
    /// File of the node's certificate.
    pub cert: Option<Text>,
    /// File of the node's key.
    pub key: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Balance {
    /// Rule by which new flows are shared (default adaptive).
    pub policy: Option<BalancePolicy>,
    pub interval: Option<Text>,
    pub max_shift: Option<Spanned<u32>>,
    pub floor: Option<Spanned<u32>>,
    pub slow_start: Option<Text>,
    pub spill_above: Option<Spanned<u32>>,
    pub spill_below: Option<Spanned<u32>>,
    pub hot_above: Option<Spanned<u32>>,
    pub hot_below: Option<Spanned<u32>>,
    pub panic_below: Option<Spanned<u32>>,
    pub stale_after: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Telemetry {
    /// URL of the OpenTelemetry collector for metrics by OTLP over HTTP, like http://127.0.0.1:4318
    /// (default none). The path /v1/metrics is appended.
    pub otlp: Option<Text>,
    pub otlp_interval: Option<Text>,
    /// File of the CA of the collector's certificate; required for https://.
    pub otlp_ca: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    /// Principals that may read: users and @groups by name or number, and cert:NAME over TCP.
    #[serde(default)]
    pub read: Vec<Text>,
    /// Principals that may also drain backends, confirm and roll back.
    #[serde(default)]
    pub operate: Vec<Text>,
    /// Principals that may also apply configurations.
    #[serde(default)]
    pub admin: Vec<Text>,
    /// TCP address and port of metrics and health, open to everyone who can reach it (default
    /// none).
    pub metrics: Option<Text>,
    /// Host names accepted in requests for metrics over TCP, besides addresses, localhost and the
    /// node's name.
    #[serde(default)]
    pub metrics_hosts: Vec<Text>,
    /// TCP address and port of the API, for clients with a certificate (cert:NAME above; default
    /// none).
    pub listen: Option<Text>,
    /// File of the API's certificate over TCP (`steer pki issue api`).
    pub cert: Option<Text>,
    /// File of its key.
    pub key: Option<Text>,
    /// File of the CA of client certificates (`steer pki issue operator`).
    pub ca: Option<Text>,
}

/// Rule by which new flows are shared.
#[derive(Clone, Copy, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum BalancePolicy {
    /// Capacity, less by utilization, in bounded steps; nearer and cheaper backends first.
    Adaptive,
    /// Capacity alone, in the nearest ring that serves.
    Capacity,
    /// Ratio of flows to utilization, in the nearest ring that serves, for comparison: `max_shift` and `floor`
    /// do not bound it.
    Utilization,
}

/// Number of probe methods that must succeed.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Require {
    /// A number.
    Number(u32),
    /// "all" or "any".
    Word(String),
}

macro_rules! mode {
    ($(
        $(#[$doc:meta])*
        $mode:ident = $number:literal, $name:literal, $outer:expr, $sources:expr, $manner:literal;
    )*) => {
        /// Forwarding mode to a backend.
        #[derive(Clone, Copy, Deserialize, JsonSchema, PartialEq, Eq)]
        pub(super) enum Mode {
            $($(#[$doc])* #[serde(rename = $name)] $mode,)*
        }

        impl From<Mode> for steer_common::abi::Mode {
            fn from(mode: Mode) -> Self {
                match mode {
                    $(Mode::$mode => Self::$mode,)*
                }
            }
        }
    };
}

steer_common::modes!(mode);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    /// Name of the backend, also in the certificate of its beacon.
    pub name: Text,
    /// IP address of the backend.
    pub address: Text,
    /// Forwarding mode to the backend.
    pub mode: Mode,
    /// Region of the backend (default: the node's).
    pub region: Option<Text>,
    /// Zone of the backend.
    #[serde(default)]
    pub zone: String,
    /// Weight relative to the other backends, 1 to 1000000 (default 1).
    pub capacity: Option<Spanned<u32>>,
    /// Price relative to the other backends (default 1). Used only among backends that meet a
    /// service's `objective`.
    pub cost: Option<Spanned<u32>>,
    /// Address and port of its beacon.
    pub beacon: Option<Text>,
    /// Probe methods: beacon, tcp:8000, http:8000/health, https:443/health, h3:443/health (default:
    /// its beacon; without a beacon it is not probed and counts as up).
    pub probes: Option<Spanned<Vec<Text>>>,
    /// Number of probe methods that must succeed: all, any, or a number (default all).
    pub require: Option<Spanned<Require>>,
    /// Number of open connections of a service from which it takes new ones only if no other
    /// backend can, in mode nat (default unlimited).
    pub max_in_flight: Option<Spanned<u32>>,
    /// Port in mode nat, 1 to 65535 (default: the service's).
    pub port: Option<Spanned<u16>>,
    /// Event in its answers that counts as the first token, for measurement in mode nat.
    #[serde(default)]
    pub first_token: FirstToken,
    /// Server ids in its QUIC connection ids, as hexadecimal digits (default: derived from its
    /// name).
    #[serde(default)]
    pub server_ids: Vec<Text>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// Name of the pool.
    pub name: Text,
    /// Names of its backends.
    pub backends: Spanned<Vec<Text>>,
    /// Largest share of a service's new flows, in percent (default 100).
    pub max_share: Option<Spanned<u32>>,
    /// Largest number of new flows per second from a service (default unlimited).
    pub max_new_flows_per_second: Option<Spanned<u32>>,
    /// Whether new flows spill to the next pool while all of its rings are too busy.
    #[serde(default)]
    pub overflow: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// Name of the service.
    pub name: Text,
    /// Virtual IP address.
    pub address: Text,
    /// Port; 0 means any.
    pub port: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Names of its pools, the preferred one first: a pool serves if no earlier one has a healthy
    /// backend.
    pub pools: Spanned<Vec<Text>>,
    /// Split of new flows: pools of `pools` by name, with shares in percent that sum up to 100. The
    /// other pools come after them.
    pub split: Option<Spanned<BTreeMap<String, Spanned<u32>>>>,
    /// Percentage of new flows that a change of `split` may move per second, 1 to 100 (default 1).
    pub split_shift: Option<Spanned<u32>>,
    /// Latency objective, 1ms to 1h: backends that answer within it count as equally near, and the
    /// cheapest of them come first. Without it, prices are ignored.
    pub objective: Option<Text>,
    /// Action after the last pool.
    #[serde(default)]
    pub end: End,
    /// Idle time after which flows count as gone, 1s to 7days (default 5m).
    pub idle_timeout: Option<Text>,
    /// Regions that may serve it under all circumstances (default all).
    pub regions: Option<Spanned<Vec<Text>>>,
    /// Limit of new TCP connections and nat flows per second (default unlimited).
    pub new_flows_per_second: Option<Spanned<u32>>,
    /// Burst of that limit (default: the rate per second).
    pub new_flows_burst: Option<Spanned<u32>>,
    /// Limit of new flows per second from each source; 0 is unlimited (default unlimited, for UDP
    /// other than QUIC under `nat` 1000 with a burst of 2000).
    pub source_flows_per_second: Option<Spanned<u32>>,
    /// Burst of that limit (default: the rate per second).
    pub source_flows_burst: Option<Spanned<u32>>,
    /// Priority, 0 to 255; the lowest is shed first if a pool is hot (default 100).
    pub priority: Option<Spanned<u32>>,
    /// Action on open flows of a backend that is down.
    #[serde(default)]
    pub open_flows: OpenFlows,
    /// Whether its UDP traffic is QUIC, with connection ids that may name their server (default
    /// false).
    pub quic: Option<Spanned<bool>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    /// Name of the class.
    pub name: Text,
    /// Name of its service.
    pub service: Text,
    /// Addresses and prefixes of its clients (default all). The longest matching prefix decides.
    pub sources: Option<Spanned<Vec<Text>>>,
    /// DSCPs of its clients, 0 to 63 (default all).
    pub dscp: Option<Spanned<Vec<Spanned<u32>>>>,
    /// Names of its pools, the preferred one first.
    pub pools: Spanned<Vec<Text>>,
    /// Split of new flows: pools of `pools` by name, with shares in percent that sum up to 100.
    pub split: Option<Spanned<BTreeMap<String, Spanned<u32>>>>,
    /// Action after the last pool (default: the service's).
    pub end: Option<End>,
    /// Regions that may serve it under all circumstances (default: the service's).
    pub regions: Option<Spanned<Vec<Text>>>,
    /// Limit of new TCP connections and nat flows per second, counted separately (default: the
    /// service's).
    pub new_flows_per_second: Option<Spanned<u32>>,
    /// Burst of that limit (default: the rate per second).
    pub new_flows_burst: Option<Spanned<u32>>,
    /// Limit of new flows per second from each source (default: the service's).
    pub source_flows_per_second: Option<Spanned<u32>>,
    /// Burst of that limit (default: the rate per second).
    pub source_flows_burst: Option<Spanned<u32>>,
    /// Priority, 0 to 255; the lowest is shed first if a pool is hot (default: the service's).
    pub priority: Option<Spanned<u32>>,
}
