//! Counters and measurements of packets.

use std::collections::HashMap;

use anyhow::Result;
use steer_common::abi::{AdmissionDrops, LatencyBuckets, MemberCounters, Signals};

/// Counters and measurements of packets, which the daemon reads.
pub trait TrafficCounters {
    /// Returns the flows in flight of a member with a limit, as counted by the kernel; 0 without
    /// packets.
    fn in_flight(&self, id: u16) -> i64 {
        let _ = id;
        0
    }

    /// Adds to the kernel's count of flows in flight.
    fn add_in_flight(&mut self, id: u16, by: i64) {
        let _ = (id, by);
    }

    /// Returns the counters since the maps were created.
    fn counters(&self) -> Result<Counters>;

    /// Returns the traffic counters of members with numbers below `end`, since the maps were
    /// created. Costs a system call.
    fn traffic(&mut self, end: u16) -> Result<Vec<MemberCounters>>;

    /// Replaces the set of members whose latencies are measured. Members that stay keep their
    /// measurements.
    fn set_latency_members(&mut self, members: &[u16]) -> Result<()>;

    /// Returns the latencies of a measured member, summed over CPUs modulo 2^32.
    fn latency(&self, id: u16) -> Result<Option<LatencyBuckets>>;

    /// Calls `show` with the latencies of all measured members, using few system calls.
    fn for_each_latency(&self, show: &mut dyn FnMut(u16, &LatencyBuckets)) -> Result<()>;

    /// Returns signs of trouble with a member since the maps were created. Costs no system call, so
    /// it may be called often.
    fn signals(&self, id: u16) -> Signals;
}

/// Counters summed over CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Counters by member.
    pub members: Vec<MemberCounters>,
    /// Dropped packets by the number of the reason.
    pub drops: Vec<u64>,
    /// Refused flows by the numbers of services and classes.
    pub admission_drops: HashMap<u16, AdmissionDrops>,
}
