//! Probes of backends and of their beacons.

mod beacon_connection;
mod client;
pub mod confirmation;
#[cfg(test)]
mod hostile_tests;
mod http;
mod http_tls;
mod load;
mod measurement;
mod method;
mod orca;
mod prober;
mod quorum;
mod results;
mod schedule;
mod socket;
mod tcp_close;
#[cfg(test)]
mod tests;
mod timeout;
mod tls;
#[cfg(test)]
mod web_tests;
pub mod wire;

pub use self::client::{ProbeSettings, ProbeTarget, spawn};
pub use self::http_tls::HttpTls;
pub use self::load::{HINT, HINT_FOR, Load, NO_SIGNAL, NOTES, NoSignal};
pub use self::measurement::{Hint, Measurement, Note, ProbeFailure, Sample, Trouble};
pub use self::method::{Method, Transport};
pub use self::orca::{
    BACKEND_UP, DRAINING, OrcaLoadReport, PROBE_BUDGET, ReportError, TROUBLE, TROUBLE_FOR,
};
pub use self::results::{ResultReceiver, ResultSender, channel};
pub use self::schedule::Budget;
pub(crate) use self::tcp_close::close_in_order;
pub use self::tls::ProbeTls;

/// ALPN protocol between a node and a beacon.
pub const ALPN: &[u8] = b"steer-probe/1";
