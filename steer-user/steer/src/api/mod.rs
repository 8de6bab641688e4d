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
pub use self::watch::Changes;

/// Request to explain a flow.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ExplainQuery {
    /// Protocol: "tcp" or "udp".
    pub protocol: steer_core::config::Protocol,
    /// Client address and port.
    pub source: SocketAddr,
    /// VIP and port.
    pub destination: SocketAddr,
    /// Whether the packet belongs to an open connection, as opposed to a SYN or QUIC Initial.
    #[serde(default)]
    pub open: bool,
    /// DSCP, 0 to 63.
    #[serde(default)]
    pub dscp: u8,
    /// Destination connection id of a QUIC packet.
    #[serde(default)]
    #[schemars(with = "String")]
    pub dcid: steer_probe::quic::Hex,
}

/// Request to explain a whole packet.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainPacket {
    /// Frame, from its Ethernet header on, in hexadecimal digits.
    #[schemars(with = "String")]
    pub packet: steer_probe::quic::Hex,
    /// Incoming interface; by default the first one of the configuration.
    #[serde(default)]
    pub interface: Option<String>,
}

/// Request to drain a backend.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Deadline for open flows, up to 30 days; none by default.
    #[serde(default, with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub deadline: Option<Duration>,
}

/// Request to set a backend's weight.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// Weight in place of its capacity; `null` restores the capacity.
    pub weight: Option<u32>,
}

/// Request to change a setting.
#[derive(Clone, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TuneRequest {
    /// Value; the default if missing.
    pub value: Option<String>,
}

/// Answer to a drain or a weight that took effect, with a warning if it was not saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SaveWarning {
    /// Reason why the state directory could not store it: the change ends with the daemon.
    #[serde(default)]
    pub warning: Option<String>,
}

/// Reason for a refused request.
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Problem {
    /// Description of the error, with advice.
    pub error: String,
}
