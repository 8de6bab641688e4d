//! Tables of flows, and their garbage collection.

use std::{collections::HashMap, time::Duration};

use anyhow::Result;
use steer_common::abi::{
    FlowEntry, FlowKey, FragmentEntry, FragmentKey, LatencyBuckets, NatForward, NatReverse,
    NatTimeouts, SourceKey,
};

use crate::domain::latency::Waiting;

/// Tables of flows, which packets fill and the daemon collects garbage from.
pub trait FlowTables {
    /// Starts garbage collection of flow-table and nat entries idle for longer than the limits. The
    /// next one can start once [`Self::take_gc_report`] has returned the result.
    fn start_gc(&mut self, limits: GcLimits) -> Result<()>;

    /// Returns the result of the last garbage collection, once, when it is done.
    fn take_gc_report(&mut self) -> Option<Result<GcReport>>;

    /// Returns the flow-table entry of a flow.
    fn flow(&self, key: &FlowKey) -> Option<FlowEntry>;

    /// Returns the nat entry of a client's flow.
    fn nat_forward(&self, key: &FlowKey) -> Option<NatForward>;

    /// Returns the nat entry of a backend's flow.
    fn nat_reverse(&self, key: &FlowKey) -> Option<NatReverse>;

    /// Returns the entry of a flow of which more than the SYN has been seen. Without packets there
    /// is only one kind.
    fn open_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.flow(key)
    }

    /// Returns the entry of a flow of which only the SYN has been seen.
    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        let _ = key;
        None
    }

    /// Returns the decision for the first fragment of a packet.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        let _ = key;
        None
    }

    /// Returns the time at which a source's next new flow is due.
    fn source(&self, key: &SourceKey) -> Option<u64> {
        let _ = key;
        None
    }
}

/// Idle timeouts of flows.
#[derive(Clone, Debug)]
pub struct GcLimits {
    /// Timeout of the flow table in milliseconds.
    pub flow_idle_ticks: u32,
    /// Timeouts of nat entries.
    pub nat: NatTimeouts,
    /// Members whose flows have a different timeout, by number.
    pub nat_idle: Vec<NatIdle>,
    /// Wait for an answer after which a flow is silent.
    pub silence: Duration,
}

/// Idle timeout of a member's nat flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatIdle {
    /// Idle ticks after which a flow is over; 0 means the default.
    pub idle_ticks: u32,
    /// Additional ticks for which entries of a TCP flow stay, to reset whoever continues it.
    pub linger_ticks: u32,
}

/// Result of a garbage collection.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// Slots with flows in the flow table, each with their member.
    pub tracked: Vec<(u32, u16)>,
    /// Nat flows by member.
    pub nat_flows: Vec<u32>,
    /// Nat flows that are not over.
    pub in_flight: Vec<u32>,
    /// Nat flows that wait for an answer, by member, up to the largest member number.
    pub waiting: Vec<Waiting>,
    /// Latencies of the measured members, modulo 2^32.
    pub latency: HashMap<u16, LatencyBuckets>,
    /// Entries removed.
    pub removed: usize,
}
