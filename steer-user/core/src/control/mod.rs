//! The reconcile loop: from measurements, configuration and commands of the operator to changes of the data path.
//!
//! [`Controller`] is made of components. Each has its own state, gets what it needs as arguments, returns what changed,
//! and does not know the controller. Nothing here waits, reads files or asks the system.

mod admission;
mod backends;
mod balancer;
mod controller;
mod error;
mod evidence;
mod health;
mod host;
mod ids;
mod planner;
mod publish;
mod record;
mod report;
mod site;
mod start;
mod tables;
#[cfg(test)]
mod tests;

pub use self::backends::{
    Operator,
    drains::{Drain, DrainStatus},
};
pub use self::controller::Controller;
pub use self::error::CommandError;
pub use self::health::{confirmations::ConnectionRequest, passive_latency::MemberPassive};
pub use self::host::{Host, WallClock};
pub use self::planner::POLL_INTERVAL;
pub use self::publish::tuning::Tuning;
pub use self::record::{
    decisions::Decision,
    recorder::Recorder,
    replay::{Replayed, replay},
};
pub use self::report::{
    attachment::Attachment,
    dry_run::{DryRun, Fate, Preview, ServicePreview, Shares},
    names::{Interfaces, Names, SiteNames},
    readiness::Readiness,
    status::{
        BackendStatus, ClassStatus, LatencyStatus, MemberStatus, PassiveStatus, ServiceStatus,
        Status,
    },
    view::View,
};
pub use self::start::Start;
