//! The daemon's API: HTTP and JSON on a Unix socket, and its client.

mod access;
mod client;
mod config;
mod dial;
mod hosts;
mod listen;
mod metrics;
mod monitor;
mod openapi;
mod packet;
mod quota;
mod remote;
mod server;
mod trace;
mod watch;
mod work;

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::access::{Access, Role};
pub use self::client::{Client, ClientError};
pub use self::config::{ApplyAnswer, ApplyRequest, Confirmed, RollbackRequest};
pub use self::dial::{Dial, Remote};
pub use self::hosts::AllowedHosts;
#[cfg(test)]
pub(crate) use self::metrics::read;
pub use self::metrics::{Family, Sample, families};
pub use self::monitor::{Metrics, Monitor, monitor};
pub use self::openapi::openapi;
pub use self::quota::MAX_CONNECTIONS;
pub use self::remote::remote;
pub use self::server::{bind, serve};
pub use self::trace::{TraceLine, TraceStream, TracedPacket};

/// A flow to explain.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ExplainQuery {
    /// "tcp" or "udp".
    pub protocol: crate::config::Protocol,
    /// The client.
    pub source: SocketAddr,
    /// The VIP.
    pub destination: SocketAddr,
    /// Whether the packet is in the midst of a connection, not its SYN or QUIC Initial.
    #[serde(default)]
    pub open: bool,
    /// Its DSCP, 0 to 63.
    #[serde(default)]
    pub dscp: u8,
    /// The destination connection id of a QUIC packet.
    #[serde(default)]
    #[schemars(with = "String")]
    pub dcid: steer_probe::quic::Hex,
}

/// A whole packet to explain.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainPacket {
    /// The frame, from its Ethernet header on, in hexadecimal digits.
    #[schemars(with = "String")]
    pub packet: steer_probe::quic::Hex,
    /// The interface that it comes in by; the first of the configuration if it is not said.
    #[serde(default)]
    pub interface: Option<String>,
}

/// How to drain a backend.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// How long open flows may go on, up to 30 days; without it, as long as they like.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub deadline: Option<Duration>,
}

/// The weight to give a backend.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// In place of its capacity; without it, its capacity counts again.
    pub weight: Option<u32>,
}

/// The value to set something to.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TuneRequest {
    /// The value; without it, the default.
    pub value: Option<String>,
}

/// Answer to a drain or a weight that took effect and is not saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SaveWarning {
    /// Reason why the state directory does not have it: it ends with the daemon.
    #[serde(default)]
    pub warning: Option<String>,
}

/// Why a request was refused.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Problem {
    /// What was wrong and what to do.
    pub error: String,
}
