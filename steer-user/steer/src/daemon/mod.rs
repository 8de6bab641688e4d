//! The daemon: the event loop around the controller, and all that asks the system for something.

mod apply;
mod command;
mod event_loop;
mod explain;
mod flow_seed;
mod interfaces;
mod metrics;
mod next_hops;
mod overrides;
mod probers;
mod readiness_sink;
mod route_changes;
mod routers;
mod settings;
mod source;
mod state_file;
mod trace;

pub use self::apply::{
    Applied, ApplyError, Configure, Diff, Prepared, ReadOptions, Reply, RunningConfig,
};
pub use self::command::{Command, Commands};
pub use self::event_loop::{Configured, Setup, TICK, run};
pub use self::metrics::DaemonMetrics;
pub use self::readiness_sink::{NodeState, Pulse, ReadinessSink};
pub use self::settings::{SettingStatus, TuneError};
pub use self::source::{BackendSource, FileSource, Versioned};
pub use self::trace::{Lease, TraceError, TraceNames, TraceReply, TraceRequest, Tracing};
