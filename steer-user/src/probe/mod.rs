//! Probes: what a node asks of a backend's beacon, and how.

mod orca;
pub mod wire;

pub use self::orca::{BACKEND_UP, DRAINING, OrcaLoadReport, ReportError};

/// The ALPN protocol between a node and a beacon.
pub const ALPN: &[u8] = b"steer-probe/1";
