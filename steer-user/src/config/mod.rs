//! Configuration: a TOML document becomes a [`Config`] in which everything holds, or a list of all
//! that is wrong with it.

mod advice;
mod api;
mod backends;
#[cfg(test)]
mod bad;
mod balance;
mod classes;
mod document;
#[cfg(test)]
mod document_tests;
mod files;
mod format;
mod limits;
mod lines;
mod merge;
mod names;
#[cfg(test)]
mod nearly_tests;
mod node;
mod policy;
mod probes;
mod quic;
mod raw;
mod read;
mod report;
mod schema;
mod services;
mod spanned;
mod split;
mod suggest;
mod syntax;
mod telemetry;
#[cfg(test)]
mod tests;
mod values;
mod variables;
#[cfg(test)]
mod wrong_tests;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use steer_common::abi::Mac;

pub use self::api::{Api, NotPrincipal, Principal, Remote};
pub(crate) use self::backends::MAX_CAPACITY;
pub use self::balance::Balance;
pub use self::document::{DROP_INS, Document, SourceFile};
pub use self::policy::{Policy, PolicyId};
pub use self::report::{ConfigError, Problem};
pub use self::schema::schema;
pub use self::telemetry::Otlp;
use crate::probe::Method;

/// A configuration that holds: names are unique, and each reference names something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// This node.
    pub node: Node,
    /// What mode `nat` needs.
    pub nat: Nat,
    /// What modes `ipip` and `gue` need.
    pub encap: Encap,
    /// How backends are probed.
    pub probe: Probe,
    /// How new flows are shared out.
    pub balance: Balance,
    /// Who may use the API.
    pub api: Api,
    /// Where metrics are sent to, if anywhere.
    pub otlp: Option<Otlp>,
    /// Who is not let in.
    pub admission: Admission,
    /// Sizes of the tables.
    pub limits: Limits,
    /// How servers lay out connection ids of QUIC; the last one is that which they use now. At least
    /// one.
    pub quic: Vec<CidLayout>,
    /// Backends, in the order of the document.
    pub backends: Vec<Backend>,
    /// Pools, in the order of the document.
    pub pools: Vec<Pool>,
    /// Services, in the order of the document.
    pub services: Vec<Service>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name; its certificate carries it.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Interfaces that the program is attached to; at least one.
    pub interfaces: Vec<String>,
    /// MAC addresses of the node besides those that its interfaces show.
    pub macs: Vec<Mac>,
    /// Whether frames for any MAC address are steered.
    pub accept_any_mac: bool,
    /// How it is attached.
    pub xdp_mode: XdpMode,
    /// Where the daemon keeps generations, the journal, and what the operator said.
    pub state_dir: PathBuf,
    /// The API's Unix socket.
    pub socket: PathBuf,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// File with the seed of the hash of flows; without it, the node has one of its own.
    pub flow_seed_file: Option<PathBuf>,
    /// How many applied configurations are kept.
    pub generations: usize,
    /// About how much of the journal is kept, in bytes.
    pub journal_bytes: u64,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    #[default]
    Native,
    /// In the kernel's stack: slow, for interfaces without native XDP.
    Generic,
}

/// Where answers of backends may come in under `nat`, as `rp_filter` says it of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplyFilter {
    /// By the interface and VLAN of the next hop to the backend.
    #[default]
    Strict,
    /// By any interface.
    Loose,
}

/// What mode `nat` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Source addresses towards backends.
    pub addresses: Vec<IpAddr>,
    /// Source ports towards backends; not empty.
    pub ports: RangeInclusive<u16>,
    /// How long a flow keeps its port before its client has gone on after an answer.
    pub opening_timeout: Duration,
    /// The same of a flow of UDP.
    pub udp_unassured_timeout: Duration,
    /// How long a flow keeps its port after it is over.
    pub closed_timeout: Duration,
    /// Where answers of backends may come in.
    pub reply_filter: ReplyFilter,
    /// Whether the checksum of TCP segments that begin or end a connection has to be right.
    pub verify_checksums: bool,
    /// Silence between two parts of an answer that makes them two bursts; zero measures nothing.
    pub burst_gap: Duration,
    /// A flow that has waited for an answer for longer is silent.
    pub silence: Duration,
}

/// What modes `ipip` and `gue` need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encap {
    /// Outer source towards IPv4 backends.
    pub v4: Option<Outer>,
    /// Outer source towards IPv6 backends.
    pub v6: Option<Outer>,
    /// UDP port of backends with mode `gue`.
    pub gue_port: u16,
}

/// Outer source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The address, or the first of the prefix.
    pub address: IpAddr,
    /// How many of the last bits each flow has for itself.
    pub bits: u8,
}

/// How servers lay out connection ids of QUIC (draft-ietf-quic-load-balancers-21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidLayout {
    /// The first three bits, 0 to 6.
    pub rotation: u8,
    /// Length of the server id in bytes, 1 to 8.
    pub server_id: usize,
    /// Length of the nonce in bytes, 4 at least.
    pub nonce: usize,
    /// The file with the key that both are encrypted by; without it they are readable.
    pub key_file: Option<PathBuf>,
}

/// Who is not let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Prefixes of clients' addresses that services drop.
    pub deny: Vec<(IpAddr, u8)>,
    /// Bits of an IPv4 address that make a source.
    pub source_v4_bits: u8,
    /// Bits of an IPv6 address that make a source.
    pub source_v6_bits: u8,
}

/// Sizes of the tables, which cost memory whether they are full or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows that the flow table has room for.
    pub flows: u32,
    /// Flows that the nat table has room for.
    pub nat_flows: u32,
}

/// How many new flows a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlows {
    /// In the long run; at least 1.
    pub per_second: u32,
    /// At once; at least 1.
    pub burst: u32,
}

/// How backends are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// From one ping to the next.
    pub interval: Duration,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// So many good probes in a row make a backend up.
    pub rise: u32,
    /// So many bad ones make it down.
    pub fall: u32,
    /// The half-life of the penalty for dying; zero means that there is none.
    pub flap_half_life: Duration,
    /// From one full handshake to the next.
    pub handshake_every: Duration,
    /// How many probes a second the node sends at most; after failures half as many more.
    pub budget: u32,
    /// The CA of certificates that HTTPS and HTTP/3 probes take; without it, any will do.
    pub http_ca: Option<PathBuf>,
    /// The host that HTTP probes ask for; without it, the backend's address.
    pub http_name: Option<String>,
    /// Certificates; there if any backend has a beacon.
    pub files: Option<ProbeFiles>,
}

/// The node's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFiles {
    /// The CA of beacons' certificates.
    pub ca: PathBuf,
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// One inference endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name; its beacon's certificate carries it.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// How it is reached.
    pub mode: Mode,
    /// Its region.
    pub region: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Its weight relative to other backends; at least 1.
    pub capacity: u32,
    /// Its price relative to other backends.
    pub cost: u32,
    /// Where its beacon listens.
    pub beacon: Option<SocketAddr>,
    /// Server ids that it was given, each of another length; see [`Backend::server_id`].
    pub server_ids: Vec<crate::quic::Hex>,
    /// What of its answers is the first token.
    pub first_token: FirstToken,
    /// With so many open connections of a service it counts as hot; without it, never for their number.
    pub max_in_flight: Option<u32>,
    /// How it is probed, the beacon first. Without any it counts as up.
    pub probes: Vec<Method>,
    /// So many of them have to be answered; at least 1.
    pub require: usize,
}

impl Backend {
    /// Where a probe of it goes to.
    #[must_use]
    pub fn asked_at(&self, method: &Method) -> SocketAddr {
        match (method, self.beacon) {
            (Method::Beacon, Some(beacon)) => beacon,
            // A beacon that is probed has a place.
            (Method::Beacon, None) => SocketAddr::new(self.address, 0),
            (Method::Tcp { port } | Method::Get { port, .. }, _) => {
                SocketAddr::new(self.address, *port)
            }
        }
    }
}

/// What of an engine's answers is the first token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FirstToken {
    /// The first byte: the engine sends nothing before it.
    FirstByte,
    /// The second burst: the engine sends headers at once.
    #[default]
    SecondBurst,
}

/// How a backend is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Addresses are rewritten both ways.
    Nat {
        /// The backend's port, if it isn't the service's.
        port: Option<u16>,
    },
    /// The packet is wrapped in an IP header; the backend answers directly.
    Ipip,
    /// The packet is wrapped in IP and UDP headers; the backend answers directly.
    Gue,
    /// Only MAC addresses change; the backend is on the same link and answers directly.
    L2,
}

/// Backends that serve the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Indexes of its backends in [`Config::backends`]; at least one.
    pub backends: Vec<usize>,
    /// The most that it takes of a service's new flows, in percent.
    pub max_share: u32,
    /// The most new flows in a second that it takes of a service.
    pub max_new_flows: Option<u32>,
    /// Whether new flows go on to the next pool while all of its rings are too busy.
    pub overflow: bool,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 means any.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Indexes of its pools in [`Config::pools`], the first choice first; at least one.
    pub pools: Vec<usize>,
    /// Where new flows begin, if not in the first pool: places in `pools` with percents, 100 together.
    pub split: Vec<(usize, u32)>,
    /// The most percent of new flows that a change of `split` moves in a second.
    pub split_shift: u32,
    /// Backends that answer within this are as near as each other.
    pub objective: Option<Duration>,
    /// What happens where no pool has a backend.
    pub end: End,
    /// A slot's open flows are taken to be gone after so long without a packet.
    pub idle_timeout: Duration,
    /// What happens to the open flows of a member that is down.
    pub open_flows: OpenFlows,
    /// Regions that it may be served from; without it, any.
    pub regions: Option<Vec<String>>,
    /// How many new flows it takes; without it, any number.
    pub new_flows: Option<NewFlows>,
    /// How many new flows it takes of each source; without it, any number.
    pub source_flows: Option<NewFlows>,
    /// The lowest is shed first.
    pub priority: u8,
    /// Whether its UDP is QUIC.
    pub quic: bool,
    /// Its classes, in the order of the document.
    pub classes: Vec<Class>,
}

/// A group of a service's clients. What the document leaves out is as the service has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name, which no other class of the service has.
    pub name: String,
    /// Prefixes of its clients' addresses; none means all.
    pub sources: Vec<(IpAddr, u8)>,
    /// Its DSCPs, in order; none means all.
    pub dscp: Vec<u8>,
    /// Indexes of its pools in [`Config::pools`], the first choice first; at least one.
    pub pools: Vec<usize>,
    /// Where new flows begin, if not in the first pool: places in `pools` with percents, 100 together.
    pub split: Vec<(usize, u32)>,
    /// What happens where no pool has a backend.
    pub end: End,
    /// Regions that it may be served from; without it, any.
    pub regions: Option<Vec<String>>,
    /// How many new flows it takes; without it, any number.
    pub new_flows: Option<NewFlows>,
    /// How many new flows it takes of each source; without it, any number.
    pub source_flows: Option<NewFlows>,
    /// The lowest is shed first.
    pub priority: u8,
}

/// A protocol above IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// The end of a chain of pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The client is told at once.
    #[default]
    Reject,
    /// The client hears nothing.
    Drop,
}

/// What happens to the open flows of a member that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OpenFlows {
    /// They are reset, so that clients retry at once.
    #[default]
    Reset,
    /// They go to another member.
    Resteer,
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("{word:?} is no protocol: write tcp or udp")),
        }
    }
}

impl Protocol {
    /// Its number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Its name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Config {
    /// Reads and checks the document at `path`, with the files of `conf.d` beside it.
    ///
    /// # Errors
    /// With everything that is wrong, each with file and line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Document::read(path)?.config()
    }

    /// Checks a document; `file` is only for the messages.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        Document::single(file, text).config()
    }

    /// Backends of a service over all its pools and those of its classes, each once, in order of
    /// preference.
    pub fn members(&self, service: &Service) -> Vec<usize> {
        let classes = service.classes.iter().flat_map(|class| &class.pools);
        self.of_pools(service.pools.iter().chain(classes))
    }
}
