//! Probes: what a node asks of a backend's beacon, and how.

mod client;
mod link;
mod load;
mod measurement;
mod orca;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
pub mod wire;

pub use self::client::{ProbeSettings, ProbeTarget, spawn};
pub use self::load::{Load, NO_SIGNAL, NoSignal};
pub use self::measurement::{Measurement, ProbeFailure, Sample, Trouble};
pub use self::orca::{
    BACKEND_UP, DRAINING, OrcaLoadReport, PROBE_BUDGET, ReportError, TROUBLE, TROUBLE_FOR,
};
pub use self::tls::ProbeTls;

/// The ALPN protocol between a node and a beacon.
pub const ALPN: &[u8] = b"steer-probe/1";
