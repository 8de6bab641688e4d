//! The reconcile loop: measurements, configuration and what the operator says become a desired
//! state, and the difference to what the data path has becomes an ordered plan.

mod arena;
mod backend;
mod balancing;
mod chain;
mod cids;
mod concern;
mod configure;
mod connections;
mod controller;
mod desired;
mod drained;
mod explained;
mod flights;
mod health;
mod interfaces;
mod made;
mod members;
mod meters;
mod nat_idle;
mod nat_seed;
mod operator;
mod passive;
mod placement;
mod plan;
mod preview;
mod probing;
mod ready;
mod recorder;
mod regions;
mod replay;
mod routers;
mod run;
mod said;
mod seeds;
mod shedding;
mod slots;
mod status;
#[cfg(test)]
mod tests;
mod trace;
mod tune;
mod tuned;
mod ways;
mod weights;
mod why;

pub use self::configure::{
    Applied, Configure, ConfigureError, Diff, Prepared, ReadOptions, Reply, RunningConfig,
};
pub use self::controller::{Controller, Refused};
pub use self::drained::Drain;
pub use self::health::ConnectionRequest;
pub use self::interfaces::Attachment;
pub use self::meters::Meters;
pub use self::operator::DrainStatus;
pub use self::passive::MemberPassive;
pub use self::preview::{Fate, Preview, Rehearsal, ServicePreview, Shares};
pub use self::ready::Readiness;
pub use self::replay::{Replayed, replay};
pub use self::run::{Command, Commands, Configured, Life, Pulse, Setup, TICK, run};
pub use self::status::{
    BackendStatus, ClassStatus, LatencyStatus, MemberStatus, PassiveStatus, ServiceStatus, Status,
};
pub use self::trace::{Lease, TraceNames, TraceRefused, TraceReply, TraceRequest, Tracing};
pub use self::tune::{Knob, KnobStatus, TuneError};
pub use self::why::Decision;
