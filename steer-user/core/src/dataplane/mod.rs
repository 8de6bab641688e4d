//! The data path as the control loop sees it, and one in memory.

mod cid_keys;
pub mod classes;
mod fake;
mod flow_tables;
pub mod prefix;
mod snapshot;
mod snapshot_tables;
mod steering_tables;
mod traffic_counters;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    cid_keys::CidKeyFile,
    classes::{Class, check_classes},
    fake::FakeDataplane,
    flow_tables::{FlowTables, GcLimits, GcReport, NatIdle},
    snapshot::Snapshot,
    snapshot_tables::{SnapshotTables, TableMiss},
    steering_tables::SteeringTables,
    traffic_counters::{Counters, TrafficCounters},
};

/// The data path as the control loop sees it. No method waits for a packet.
pub trait Dataplane: SteeringTables + TrafficCounters + FlowTables + Send {}

impl<D: SteeringTables + TrafficCounters + FlowTables + Send> Dataplane for D {}

/// Mode in which an XDP program is attached, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's network stack, after the driver.
    Generic,
    /// In the network card, or in several modes at once.
    Other,
}
