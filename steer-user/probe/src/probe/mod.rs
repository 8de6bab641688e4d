//! Probes of backends and of their beacons.

mod client;
mod combine;
pub mod confirmation;
#[cfg(test)]
mod hostile_tests;
mod link;
mod load;
mod mailbox;
mod measurement;
mod method;
mod orca;
mod pace;
mod patience;
mod session;
mod socket;
mod tcp_close;
#[cfg(test)]
mod tests;
mod tls;
mod web;
#[cfg(test)]
mod web_tests;
mod web_tls;
pub mod wire;

pub use self::client::{ProbeSettings, ProbeTarget, spawn};
pub use self::load::{HINT, HINT_FOR, Load, NO_SIGNAL, NOTES, NoSignal};
pub use self::mailbox::{Inbox, Outbox, mailbox};
pub use self::measurement::{Hint, Measurement, Note, ProbeFailure, Sample, Trouble};
pub use self::method::{Method, Over};
pub use self::orca::{
    BACKEND_UP, DRAINING, OrcaLoadReport, PROBE_BUDGET, ReportError, TROUBLE, TROUBLE_FOR,
};
pub use self::pace::Budget;
pub(crate) use self::tcp_close::close_in_order;
pub use self::tls::ProbeTls;
pub use self::web_tls::WebTls;

/// ALPN protocol between a node and a beacon.
pub const ALPN: &[u8] = b"steer-probe/1";
