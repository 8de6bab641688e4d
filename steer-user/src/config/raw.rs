//! The document as it is written, before anything is checked but types and keys. What is said of a
//! key here is in the schema, too.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::spanned::Spanned;
use super::{End, FirstToken, OpenFlows, Protocol, ReplyFilter, XdpMode};

pub(super) type Text = Spanned<String>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    /// Its name, which its certificate carries.
    pub name: Text,
    /// Its region, which its certificate carries.
    pub region: Text,
    /// Its zone: backends of it are taken to be the nearest while they are not measured.
    #[serde(default)]
    pub zone: String,
    /// Interfaces that clients' packets come in by and, in mode nat, backends' answers.
    pub interfaces: Spanned<Vec<Text>>,
    /// MAC addresses of this node besides those of its interfaces and of the devices upon them, like a virtual router's
    /// that no device has. Frames for others pass.
    #[serde(default)]
    pub macs: Vec<Text>,
    /// Whether frames for any MAC address are steered, broadcast included: false.
    #[serde(default)]
    pub accept_any_mac: bool,
    /// How the program is attached.
    #[serde(default)]
    pub xdp_mode: XdpMode,
    /// Folder of generations, journal, and what the operator said: /var/lib/steer.
    pub state_dir: Option<Text>,
    /// The API's Unix socket: /run/steer/steer.sock.
    pub socket: Option<Text>,
    /// Where the BPF file system is mounted: /sys/fs/bpf.
    pub bpffs: Option<Text>,
    /// File with the seed that decides which backend a flow finds, as 32 or more hexadecimal digits: the same on all
    /// nodes behind one router, and not readable for everybody. Without it the node makes one of its own.
    pub flow_seed_file: Option<Text>,
    /// Applied configurations that are kept to go back to, 2 to 1000: 10.
    pub generations: Option<Spanned<u32>>,
    /// About how much of the journal is kept, in MiB: 64.
    pub journal_mib: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nat {
    /// Sources towards backends, which route their answers back to this node.
    #[serde(default)]
    pub addresses: Vec<Text>,
    /// Source ports, which each address has all of: 20000-59999.
    pub ports: Option<Text>,
    /// How long a flow keeps its port before its client has gone on after an answer, 1s to 10m: 30s.
    pub opening_timeout: Option<Text>,
    /// The same as `opening_timeout`, of a flow of UDP, 1s to 10m: 10s.
    pub udp_unassured_timeout: Option<Text>,
    /// How long a flow keeps its port after it is over, 1s to 10m: 60s, which is how long a backend is in TIME_WAIT. Where
    /// ports are short another flow may get it before.
    pub closed_timeout: Option<Text>,
    /// Where answers of backends may come in: "strict" is by the interface and VLAN of the next hop to the backend, "loose" by
    /// any, for backends with several ways to this node: strict.
    #[serde(default)]
    pub reply_filter: ReplyFilter,
    /// Whether TCP segments that begin or end a connection need a right checksum to change anything: true. It has to be
    /// false only where clients are on this very host, and its interfaces leave checksums to hardware.
    pub verify_checksums: Option<bool>,
    /// Silence between two parts of an answer that makes them two bursts, 0s to 10s: 2ms. 0s measures
    /// no latencies.
    pub burst_gap: Option<Text>,
    /// A connection that has waited for an answer for longer is silent, 100ms to 1h: 30s.
    pub silence: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Encap {
    /// Outer sources, addresses or prefixes, one of each family at most.
    #[serde(default)]
    pub sources: Vec<Text>,
    /// UDP port of backends with mode gue: 6080.
    pub gue_port: Option<Spanned<u16>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admission {
    /// Clients that services drop: addresses and prefixes.
    #[serde(default)]
    pub deny: Vec<Text>,
    /// Bits of an IPv4 address that make a source, for limits of each, 8 to 32: 32.
    pub source_v4_bits: Option<Spanned<u32>>,
    /// The same of an IPv6 address, 16 to 128: 64.
    pub source_v6_bits: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Flows that the flow table has room for, 1024 to 16777216: 262144.
    pub flows: Option<Spanned<u32>>,
    /// Flows that the nat table has room for: 262144, or next to none without addresses of [nat].
    pub nat_flows: Option<Spanned<u32>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Quic {
    /// The first three bits of connection ids, 0 to 6, another one for each section.
    pub rotation: Spanned<u32>,
    /// Bytes of a server id, 1 to 8: 4.
    pub server_id_length: Option<Spanned<u32>>,
    /// Random bytes behind it, 4 or more, with the server id 19 at most: 7.
    pub nonce_length: Option<Spanned<u32>>,
    /// A file with the key that encrypts both by AES-128, as 32 hexadecimal digits: nobody on the way sees which server
    /// a connection id names. Without it they are readable.
    pub key_file: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    /// From one ping to the next, 10ms to 1m: 100ms.
    pub interval: Option<Text>,
    /// Longest wait for an answer: 200ms.
    pub timeout: Option<Text>,
    /// So many answers in a row make a backend up: 2.
    pub rise: Option<Spanned<u32>>,
    /// So many failures in a row make it down: 2.
    pub fall: Option<Spanned<u32>>,
    /// A backend that dies again and again is left out until so long has halved its penalty often
    /// enough, 0s to 10m: 10s. With 0s nobody is.
    pub flap_half_life: Option<Text>,
    /// From one full handshake to the next: 30s.
    pub handshake_every: Option<Text>,
    /// Probes a second that the node sends at most, 10 to 100000: 5000.
    pub budget: Option<Spanned<u32>>,
    /// File of the CA of certificates that HTTPS and HTTP/3 probes take: any certificate will do.
    pub http_ca: Option<Text>,
    /// Host that HTTP probes ask for, and name of their certificates: the backend's address.
    pub http_name: Option<Text>,
    /// File of the CA of beacons' certificates.
    pub ca: Option<Text>,
    /// File of the node's certificate.
    pub cert: Option<Text>,
    /// File of its key.
    pub key: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Balance {
    /// From one step of the weights to the next, 100ms to 1m: 2s.
    pub interval: Option<Text>,
    /// The most of a table that a step moves, in percent: 5.
    pub max_shift: Option<Spanned<u32>>,
    /// The least that a backend's load brings its weight down to, in percent: 5.
    pub floor: Option<Spanned<u32>>,
    /// How long a backend that came back takes to get its whole weight, 0s to 1h: 30s.
    pub slow_start: Option<Text>,
    /// Above this use, in percent, new flows spill to the next ring: 80.
    pub spill_above: Option<Spanned<u32>>,
    /// Below this use, in percent, they come back: 65.
    pub spill_below: Option<Spanned<u32>>,
    /// From this use on, in percent, a backend is hot, and new flows try the second choice: 90.
    pub hot_above: Option<Spanned<u32>>,
    /// Below this use, in percent, it is hot no longer: 75.
    pub hot_below: Option<Spanned<u32>>,
    /// A pool with fewer healthy backends than so many percent is used as if probes were wrong, 0 to
    /// 100: 50. With 0 none is.
    pub panic_below: Option<Spanned<u32>>,
    /// A report of load that is older says nothing, 100ms to 10m: 3s.
    pub stale_after: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Telemetry {
    /// OpenTelemetry collector that metrics are sent to, by OTLP over HTTP, like http://127.0.0.1:4318:
    /// none. The path /v1/metrics is put behind it.
    pub otlp: Option<Text>,
    /// From one sending to the next, 1s to 10m: 15s.
    pub otlp_interval: Option<Text>,
    /// File of the CA of the collector's certificate, which https:// needs.
    pub otlp_ca: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    /// Users and @groups, by name or number, and cert:NAME by TCP, who may see.
    #[serde(default)]
    pub read: Vec<Text>,
    /// Those who may drain backends, confirm and roll back, too.
    #[serde(default)]
    pub operate: Vec<Text>,
    /// Those who may apply configurations, too.
    #[serde(default)]
    pub admin: Vec<Text>,
    /// Address and port of metrics and health by TCP, for anybody who gets there: nowhere.
    pub metrics: Option<Text>,
    /// Names of hosts that metrics may be asked for by TCP, besides addresses, localhost and the node's name.
    #[serde(default)]
    pub metrics_hosts: Vec<Text>,
    /// Address and port of the API by TCP, for those with a certificate (cert:NAME above): nowhere.
    pub listen: Option<Text>,
    /// File with the certificate of the API by TCP (`steer pki issue api`).
    pub cert: Option<Text>,
    /// File with its key.
    pub key: Option<Text>,
    /// File with the CA that certificates of its clients are from (`steer pki issue operator`).
    pub ca: Option<Text>,
}

/// How many of several probes have to be answered.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Require {
    /// So many.
    Number(u32),
    /// "all" or "any".
    Word(String),
}

/// How a backend is reached.
#[derive(Clone, Copy, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// Addresses are rewritten, both ways.
    Nat,
    /// The packet is wrapped in an IP header; the backend answers directly.
    Ipip,
    /// The packet is wrapped in IP and UDP headers; the backend answers directly.
    Gue,
    /// Only MAC addresses change; the backend is on the same link and answers directly.
    L2,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    /// Its name, which its beacon's certificate carries.
    pub name: Text,
    /// Its address.
    pub address: Text,
    /// How it is reached.
    pub mode: Mode,
    /// Its region; without it, the node's.
    pub region: Option<Text>,
    /// Its zone.
    #[serde(default)]
    pub zone: String,
    /// Its share relative to the other backends', 1 to 1000000: 1.
    pub capacity: Option<Spanned<u32>>,
    /// Its price relative to the other backends': 1. It counts among those that meet a service's
    /// `objective`.
    pub cost: Option<Spanned<u32>>,
    /// Address and port of its beacon.
    pub beacon: Option<Text>,
    /// How it is probed: beacon, tcp:8000, http:8000/health, https:443/health, h3:443/health. By its
    /// beacon; without one, not at all, and it counts as up.
    pub probes: Option<Spanned<Vec<Text>>>,
    /// How many of them have to be answered: all, any, or a number. All.
    pub require: Option<Spanned<Require>>,
    /// With so many open connections of a service it takes new ones only where others can't, in mode
    /// nat: any number.
    pub max_in_flight: Option<Spanned<u32>>,
    /// Its port in mode nat, 1 to 65535; without it, the service's.
    pub port: Option<Spanned<u16>>,
    /// What of its answers is the first token, which mode nat measures.
    #[serde(default)]
    pub first_token: FirstToken,
    /// Server ids of its QUIC connection ids, in hexadecimal digits; without one, of its name.
    #[serde(default)]
    pub server_ids: Vec<Text>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// Its name.
    pub name: Text,
    /// Names of its backends.
    pub backends: Spanned<Vec<Text>>,
    /// The most that it takes of the new flows of a service, in percent: 100.
    pub max_share: Option<Spanned<u32>>,
    /// The most new flows in a second that it takes of a service: any number.
    pub max_new_flows_per_second: Option<Spanned<u32>>,
    /// Whether new flows go on to the next pool while all of its rings are too busy.
    #[serde(default)]
    pub overflow: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// Its name.
    pub name: Text,
    /// Its address.
    pub address: Text,
    /// Its port; 0 means any.
    pub port: u16,
    /// Its protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Names of its pools, the first choice first: the next one serves where none of the one before
    /// is healthy.
    pub pools: Spanned<Vec<Text>>,
    /// New flows begin in these pools of `pools`, by name, with these shares in percent, 100 together;
    /// the others stand behind them.
    pub split: Option<Spanned<BTreeMap<String, Spanned<u32>>>>,
    /// The most percent of new flows that a change of `split` moves in a second, 1 to 100: 1.
    pub split_shift: Option<Spanned<u32>>,
    /// Backends that answer within this are as near as each other, 1ms to 1h; among them those that
    /// cost least come first. Without it the price does not matter.
    pub objective: Option<Text>,
    /// What happens behind the last pool.
    #[serde(default)]
    pub end: End,
    /// Flows are taken to be gone after so long without a packet, 1s to 7days: 5m.
    pub idle_timeout: Option<Text>,
    /// Regions that it may be served from, whatever happens: any.
    pub regions: Option<Spanned<Vec<Text>>>,
    /// TCP connections, and flows of nat, that it takes in a second: any number.
    pub new_flows_per_second: Option<Spanned<u32>>,
    /// So many of them at once: as many as in a second.
    pub new_flows_burst: Option<Spanned<u32>>,
    /// New flows that it takes of each source in a second: any number.
    pub source_flows_per_second: Option<Spanned<u32>>,
    /// So many of them at once: as many as in a second.
    pub source_flows_burst: Option<Spanned<u32>>,
    /// The lowest is shed first where a pool is hot, 0 to 255: 100.
    pub priority: Option<Spanned<u32>>,
    /// What a dead backend's open flows get.
    #[serde(default)]
    pub open_flows: OpenFlows,
    /// Whether its UDP is QUIC, whose connection ids may say their server: false.
    pub quic: Option<Spanned<bool>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    /// Its name.
    pub name: Text,
    /// Name of its service.
    pub service: Text,
    /// Clients that it is for, addresses and prefixes; without them, all. The longest prefix decides.
    pub sources: Option<Spanned<Vec<Text>>>,
    /// DSCPs that it is for, 0 to 63; without them, all.
    pub dscp: Option<Spanned<Vec<Spanned<u32>>>>,
    /// Names of its pools, the first choice first.
    pub pools: Spanned<Vec<Text>>,
    /// New flows begin in these pools of `pools`, by name, with these shares in percent, 100 together.
    pub split: Option<Spanned<BTreeMap<String, Spanned<u32>>>>,
    /// What happens behind the last pool: as the service.
    pub end: Option<End>,
    /// Regions that it may be served from, whatever happens: as the service.
    pub regions: Option<Spanned<Vec<Text>>>,
    /// TCP connections, and flows of nat, that it takes in a second: as the service, counted apart.
    pub new_flows_per_second: Option<Spanned<u32>>,
    /// So many of them at once: as many as in a second.
    pub new_flows_burst: Option<Spanned<u32>>,
    /// New flows that it takes of each source in a second: as the service.
    pub source_flows_per_second: Option<Spanned<u32>>,
    /// So many of them at once: as many as in a second.
    pub source_flows_burst: Option<Spanned<u32>>,
    /// The lowest is shed first where a pool is hot, 0 to 255: as the service.
    pub priority: Option<Spanned<u32>>,
}
