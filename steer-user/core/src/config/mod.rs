//! Configuration: turns a TOML document into a valid [`Config`], or into a list of all problems.

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
mod settings;
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
pub use steer_common::abi::Mode;
use steer_probe::probe::Method;

pub use self::api::{Api, NotPrincipal, Principal, Remote};
pub(crate) use self::backends::MAX_CAPACITY;
pub use self::balance::Balance;
pub use self::document::{DROP_INS, Document, SourceFile};
pub use self::policy::{Policy, PolicyId};
pub use self::report::{ConfigError, Problem};
pub use self::schema::schema;
pub use self::settings::{Range, Scope, Setting, Value};
pub use self::telemetry::Otlp;

/// A valid configuration: names are unique, and every reference resolves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Node settings.
    pub node: Node,
    /// Settings of mode `nat`.
    pub nat: Nat,
    /// Settings of modes `ipip` and `gue`.
    pub encap: Encap,
    /// Probe settings.
    pub probe: Probe,
    /// Distribution of new flows.
    pub balance: Balance,
    /// Access to the API.
    pub api: Api,
    /// OpenTelemetry export, if configured.
    pub otlp: Option<Otlp>,
    /// Admission control.
    pub admission: Admission,
    /// Table sizes.
    pub limits: Limits,
    /// Layouts of QUIC connection ids; servers currently use the last one. Never empty.
    pub quic: Vec<CidLayout>,
    /// Backends, in the order of the document.
    pub backends: Vec<Backend>,
    /// Pools, in the order of the document.
    pub pools: Vec<Pool>,
    /// Services, in the order of the document.
    pub services: Vec<Service>,
}

/// Node settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name, also in the node's certificate.
    pub name: String,
    /// Region.
    pub region: String,
    /// Zone; may be empty.
    pub zone: String,
    /// Interfaces to attach the program to; never empty.
    pub interfaces: Vec<String>,
    /// MAC addresses of the node besides those of its interfaces.
    pub macs: Vec<Mac>,
    /// Whether frames for any MAC address are steered.
    pub accept_any_mac: bool,
    /// Attach mode of the program.
    pub xdp_mode: XdpMode,
    /// Folder of generations, the journal, and operator state.
    pub state_dir: PathBuf,
    /// Path of the API's Unix socket.
    pub socket: PathBuf,
    /// Mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// File with the seed of the flow hash; without it, the node generates its own.
    pub flow_seed_file: Option<PathBuf>,
    /// Number of applied configurations to keep.
    pub generations: usize,
    /// Approximate size limit of the journal in bytes.
    pub journal_bytes: u64,
}

/// Attach mode of the XDP program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    #[default]
    Native,
    /// In the kernel's network stack: slow, for interfaces without native XDP.
    Generic,
}

/// Accepted interfaces for answers of backends in mode `nat`, like the kernel's `rp_filter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplyFilter {
    /// Only the interface and VLAN of the next hop to the backend.
    #[default]
    Strict,
    /// Any interface.
    Loose,
}

/// Settings of mode `nat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Source addresses for packets to backends.
    pub addresses: Vec<IpAddr>,
    /// Source ports for packets to backends; never empty.
    pub ports: RangeInclusive<u16>,
    /// Timeout of an unassured flow, whose client has not continued after the first answer; then it
    /// loses its port.
    pub opening_timeout: Duration,
    /// The same timeout for UDP flows.
    pub udp_unassured_timeout: Duration,
    /// Time for which a closed flow keeps its port.
    pub closed_timeout: Duration,
    /// Accepted interfaces for answers of backends.
    pub reply_filter: ReplyFilter,
    /// Whether TCP segments that open or close a connection must have a correct checksum.
    pub verify_checksums: bool,
    /// Pause within an answer that separates two bursts; zero disables latency measurement.
    pub burst_gap: Duration,
    /// Wait for an answer after which a flow is silent.
    pub silence: Duration,
}

/// Settings of modes `ipip` and `gue`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encap {
    /// Outer source for IPv4 backends.
    pub v4: Option<Outer>,
    /// Outer source for IPv6 backends.
    pub v6: Option<Outer>,
    /// UDP port of backends in mode `gue`.
    pub gue_port: u16,
}

/// Outer source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The address, or the first one of the prefix.
    pub address: IpAddr,
    /// Number of low-order bits that vary by flow.
    pub bits: u8,
}

/// Layout of QUIC connection ids (draft-ietf-quic-load-balancers-21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidLayout {
    /// Config rotation: the first three bits, 0 to 6.
    pub rotation: u8,
    /// Length of the server id in bytes, 1 to 8.
    pub server_id: usize,
    /// Length of the nonce in bytes, at least 4.
    pub nonce: usize,
    /// File with the key that encrypts both; without it they are readable.
    pub key_file: Option<PathBuf>,
}

/// Admission control.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Client prefixes that services drop.
    pub deny: Vec<(IpAddr, u8)>,
    /// Prefix length that identifies an IPv4 source.
    pub source_v4_bits: u8,
    /// Prefix length that identifies an IPv6 source.
    pub source_v6_bits: u8,
}

/// Table sizes; they take memory even while empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Capacity of the flow table.
    pub flows: u32,
    /// Capacity of the nat table.
    pub nat_flows: u32,
}

/// Rate limit of new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlows {
    /// Sustained rate; at least 1.
    pub per_second: u32,
    /// Burst; at least 1.
    pub burst: u32,
}

/// Probe settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Interval between pings.
    pub interval: Duration,
    /// Probe timeout.
    pub timeout: Duration,
    /// Consecutive successes after which a backend is up.
    pub rise: u32,
    /// Consecutive failures after which it is down.
    pub fall: u32,
    /// Half-life of the flap-damping penalty; zero disables damping.
    pub flap_half_life: Duration,
    /// Interval between full handshakes.
    pub handshake_every: Duration,
    /// Upper bound of probes per second from this node; half as many more are allowed after
    /// failures.
    pub budget: u32,
    /// File of the CA for HTTPS and HTTP/3 probes; without it, any certificate is accepted.
    pub http_ca: Option<PathBuf>,
    /// Host name in HTTP probes; without it, the backend's address.
    pub http_name: Option<String>,
    /// Certificates; present if any backend has a beacon.
    pub files: Option<ProbeFiles>,
}

/// The node's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFiles {
    /// File of the CA of beacon certificates.
    pub ca: PathBuf,
    /// File of the node's certificate.
    pub cert: PathBuf,
    /// File of the node's key.
    pub key: PathBuf,
}

/// An inference endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name, also in the certificate of its beacon.
    pub name: String,
    /// IP address.
    pub address: IpAddr,
    /// Forwarding mode.
    pub mode: Mode,
    /// Port, if different from the service's; only under `nat`.
    pub port: Option<u16>,
    /// Region.
    pub region: String,
    /// Zone; may be empty.
    pub zone: String,
    /// Weight relative to other backends; at least 1.
    pub capacity: u32,
    /// Price relative to other backends.
    pub cost: u32,
    /// Address of its beacon.
    pub beacon: Option<SocketAddr>,
    /// Configured QUIC server ids, each of a different length; see [`Backend::server_id`].
    pub server_ids: Vec<steer_probe::quic::Hex>,
    /// Event in its answers that counts as the first token.
    pub first_token: FirstToken,
    /// Number of open connections of a service from which it counts as hot; without it, the number
    /// does not matter.
    pub max_in_flight: Option<u32>,
    /// Probe methods, the beacon first. A backend without probes counts as up.
    pub probes: Vec<Method>,
    /// Number of probe methods that must succeed; at least 1.
    pub require: usize,
}

impl Backend {
    /// Returns the address that a probe goes to.
    #[must_use]
    pub fn asked_at(&self, method: &Method) -> SocketAddr {
        match (method, self.beacon) {
            (Method::Beacon, Some(beacon)) => beacon,
            // A backend with a beacon probe always has a beacon address.
            (Method::Beacon, None) => SocketAddr::new(self.address, 0),
            (Method::Tcp { port } | Method::Get { port, .. }, _) => {
                SocketAddr::new(self.address, *port)
            }
        }
    }
}

/// Event in an engine's answers that counts as the first token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FirstToken {
    /// The first byte: the engine sends nothing before it.
    FirstByte,
    /// The second burst: the engine sends headers at once.
    #[default]
    SecondBurst,
}

/// A group of interchangeable backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Name.
    pub name: String,
    /// Indexes of its backends in [`Config::backends`]; at least one.
    pub backends: Vec<usize>,
    /// Largest share of a service's new flows, in percent.
    pub max_share: u32,
    /// Largest number of new flows per second from a service.
    pub max_new_flows: Option<u32>,
    /// Whether new flows spill to the next pool while all of its rings are too busy.
    pub overflow: bool,
}

/// A virtual service: address, port and protocol, with its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Virtual IP address.
    pub address: IpAddr,
    /// Port; 0 means any.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Indexes of its pools in [`Config::pools`], the preferred one first; never empty.
    pub pools: Vec<usize>,
    /// Split of new flows over several pools: index in `pools` and percentage, summing up to 100.
    /// Empty to start in the first pool.
    pub split: Vec<(usize, u32)>,
    /// Percentage of new flows that a change of `split` may move per second.
    pub split_shift: u32,
    /// Latency objective: backends that answer within it count as equally near.
    pub objective: Option<Duration>,
    /// Action if no pool has a backend.
    pub end: End,
    /// Idle time after which the open flows of a slot count as gone.
    pub idle_timeout: Duration,
    /// Action on open flows of a member that is down.
    pub open_flows: OpenFlows,
    /// Regions that may serve it; `None` means all.
    pub regions: Option<Vec<String>>,
    /// Limit of new flows; `None` means unlimited.
    pub new_flows: Option<NewFlows>,
    /// Limit of new flows per source; `None` means unlimited.
    pub source_flows: Option<NewFlows>,
    /// Priority; the lowest is shed first.
    pub priority: u8,
    /// Whether its UDP traffic is QUIC.
    pub quic: bool,
    /// Classes, in the order of the document.
    pub classes: Vec<Class>,
}

/// A group of a service's clients. Omitted keys inherit the service's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Name, unique in the service.
    pub name: String,
    /// Source prefixes of its clients; empty means all.
    pub sources: Vec<(IpAddr, u8)>,
    /// DSCPs in ascending order; empty means all.
    pub dscp: Vec<u8>,
    /// Indexes of its pools in [`Config::pools`], the preferred one first; never empty.
    pub pools: Vec<usize>,
    /// Split of new flows over several pools: index in `pools` and percentage, summing up to 100.
    /// Empty to start in the first pool.
    pub split: Vec<(usize, u32)>,
    /// Action if no pool has a backend.
    pub end: End,
    /// Regions that may serve it; `None` means all.
    pub regions: Option<Vec<String>>,
    /// Limit of new flows; `None` means unlimited.
    pub new_flows: Option<NewFlows>,
    /// Limit of new flows per source; `None` means unlimited.
    pub source_flows: Option<NewFlows>,
    /// Priority; the lowest is shed first.
    pub priority: u8,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Action at the end of a chain of pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Reject: the client gets an error at once.
    #[default]
    Reject,
    /// Drop: the client gets no answer.
    Drop,
}

/// Action on open flows of a member that is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OpenFlows {
    /// Reset them, so that clients retry at once.
    #[default]
    Reset,
    /// Send them to another member.
    Resteer,
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("{word:?} is not a protocol: write tcp or udp")),
        }
    }
}

impl Protocol {
    /// Returns its number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Returns its name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Config {
    /// Reads and checks the document at `path` and the files of `conf.d` beside it.
    ///
    /// # Errors
    ///
    /// Returns all problems, each with file and line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Document::read(path)?.config()
    }

    /// Checks a document; `file` is used only in messages.
    ///
    /// # Errors
    ///
    /// The same as [`Self::load`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        Document::single(file, text).config()
    }

    /// Returns the backends of a service over all its pools and those of its classes, each once, in
    /// order of preference.
    pub fn members(&self, service: &Service) -> Vec<usize> {
        let classes = service.classes.iter().flat_map(|class| &class.pools);
        self.of_pools(service.pools.iter().chain(classes))
    }
}
