//! The interface between the control loop and the data path.

mod attach;
mod batch;
mod cid_keys;
mod classes;
mod data_path_log;
mod decap;
mod device;
mod fake;
mod gateways;
mod gc;
mod icmp_sources;
mod kernel;
mod kernel_maps;
mod links;
mod local_addresses;
mod map_memory;
mod mapped;
mod neighbours;
mod object;
mod own_links;
mod own_macs;
mod perfect_hash;
mod pin_lock;
mod pinned_link;
mod pins;
mod prefix;
mod retry;
mod sizes;
mod snapshot_tables;
mod specs;
pub mod testing;
mod trace;
mod traffic;
mod upgrade;
mod xdp;

pub use attach::{Attacher, interface_index};
pub use cid_keys::CidKeyFile;
pub use classes::{Class, check_classes};
pub use data_path_log::DataPathLog;
pub use decap::{Decap, set_up as set_up_decap};
pub use device::{Attached, Device, XdpMode};
pub use fake::FakeDataplane;
pub use gateways::{Gateway, Path, Prefix};
pub use gc::{now_coarse_ns, now_ticks};
pub use icmp_sources::IcmpSources;
pub use kernel::{OLDEST_KERNEL, UPGRADE, check_kernel};
pub use kernel_maps::KernelMaps;
pub use map_memory::MapMemory;
pub(crate) use map_memory::TRIE_ENTRY;
pub use neighbours::{Changes, Links, Neighbours, Route};
pub use object::{bench_object, decap_object, object, trace_object};
pub(crate) use own_links::mac_text;
pub use own_links::{FrameFilter, OwnLinks};
pub use own_macs::OwnMacs;
pub use perfect_hash::{PerfectHash, build as build_perfect_hash};
pub use pin_lock::PinLock;
pub use pins::Pins;
pub use sizes::Sizes;
pub use snapshot_tables::{SnapshotTables, TableMiss};
pub use trace::{TraceEvents, TracePrograms, Tracer};
pub use xdp::{OpenOptions, Xdp};

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::Range,
    time::Duration,
};

use anyhow::Result;
use steer_common::abi::{
    Address, Admission, AdmissionDrops, CidCipher, CidKey, ClassKey, ClassMatch, ClientNextHop,
    Config, DscpTable, FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource, Interface,
    LatencyBuckets, LinkKey, MAX_CID_CIPHERS, Mac, Member, MemberCounters, MemberState, NatForward,
    NatReverse, NatTimeouts, RouterKey, Service, Signals, Slot, SourceKey, SourceLimit,
};

use crate::domain::latency::Waiting;

/// The data path as the control loop sees it. No method waits for a packet.
pub trait Dataplane: Send {
    /// Returns the kernel's settings, without the fields of banks.
    fn config(&self) -> Config;

    /// Writes the settings except `active` and `banks`, which [`Self::publish`] owns.
    fn set_config(&mut self, config: &Config);

    /// Replaces the source addresses of `nat`, IPv4 and IPv6, at most
    /// [`MAX_NAT_ADDRESSES`](steer_common::abi::MAX_NAT_ADDRESSES) each.
    fn set_nat_sources(&mut self, sources: &[IpAddr]) -> Result<()>;

    /// Replaces the denied prefixes of clients. Unchanged prefixes are denied throughout.
    fn set_denied(&mut self, denied: &[(IpAddr, u8)]) -> Result<()>;

    /// Returns the members of QUIC services by server id.
    fn cids(&self) -> BTreeMap<CidKey, u16>;

    /// Replaces the known server ids. Unchanged ids are known throughout.
    fn set_cids(&mut self, cids: &BTreeMap<CidKey, u16>) -> Result<()>;

    /// Replaces the keys of encrypted connection ids with those read from files.
    ///
    /// # Errors
    ///
    /// Returns an error if a key cannot be read or is invalid. The previous keys stay then.
    fn set_cid_keys(&mut self, keys: &[CidKeyFile]) -> Result<()>;

    /// Returns the services that packets currently use.
    fn services(&self) -> Vec<Service>;

    /// Returns the class policies that packets currently use.
    fn policies(&self) -> Vec<Service>;

    /// Replaces the services and their classes atomically: writes them to the inactive bank, then
    /// activates it. A `limit` in them is an index into `limits`, counted from 1.
    fn publish_with(
        &mut self,
        services: &[Service],
        classes: &[Class],
        limits: &[SourceLimit],
    ) -> Result<()>;

    /// Works like [`Self::publish_with`], for services without classes.
    fn publish(&mut self, services: &[Service]) -> Result<()> {
        self.publish_with(services, &[], &[])
    }

    /// Clears the counters and due times of a service or class that gets this number.
    fn clear_policy(&mut self, id: u16) -> Result<()>;

    /// Sheds new flows of a service or class, by its number, with a priority below this.
    fn set_pressure(&mut self, id: u16, pressure: u32);

    /// Sets the idle timeout of nat flows of a service or class, by its number, in ticks; 0 means
    /// the default of the settings.
    fn set_nat_idle(&mut self, id: u16, ticks: u32) {
        let _ = (id, ticks);
    }

    /// Replaces the MAC addresses whose frames are steered; `None` steers frames for any address.
    fn set_node_macs(&mut self, macs: Option<&[Mac]>) -> Result<()> {
        let _ = macs;
        Ok(())
    }

    /// Replaces the properties of interfaces that packets need. Of two entries with the same
    /// position, the first one is used.
    fn set_interfaces(&mut self, interfaces: &[Interface]) {
        let _ = interfaces;
    }

    /// Returns the paths to routers.
    fn routers(&self) -> BTreeMap<RouterKey, ClientNextHop> {
        BTreeMap::new()
    }

    /// Replaces the paths to routers. Flows over a changed path look it up again.
    fn set_routers(&mut self, routers: &BTreeMap<RouterKey, ClientNextHop>) -> Result<()> {
        let _ = routers;
        Ok(())
    }

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

    /// Returns member `id`, below [`MEMBERS`](steer_common::abi::MAX_MEMBERS).
    fn member(&self, id: u16) -> Member;

    /// Writes a member that no packet uses yet, or one with a new next hop: its fields are written
    /// while [`RESOLVED`](steer_common::abi::member_flags::RESOLVED) is clear.
    fn set_member(&mut self, id: u16, member: &Member);

    /// Writes the state byte of a member, which takes effect for all slots with the next packet.
    fn set_member_state(&mut self, id: u16, state: MemberState);

    /// Writes the hot bit of a member, which makes its new flows try the second choice of their
    /// slots.
    fn set_member_hot(&mut self, id: u16, hot: bool);

    /// Returns a range of slots of the arena.
    fn slots(&self, range: Range<u32>) -> Vec<Slot>;

    /// Returns one slot.
    fn slot(&self, index: u32) -> Slot;

    /// Writes slots that no service uses yet.
    fn write_slots(&mut self, start: u32, slots: &[Slot]);

    /// Replaces a slot in use if it still equals `old`; otherwise returns its current value.
    fn swap_slot(&mut self, index: u32, old: Slot, new: Slot) -> Result<(), Slot>;

    /// Returns the counters since the maps were created.
    fn counters(&self) -> Result<Counters>;

    /// Returns the traffic counters of members with numbers below `end`, since the maps were
    /// created. Costs a system call.
    fn traffic(&mut self, end: u16) -> Result<Vec<MemberCounters>>;

    /// Starts garbage collection of flow-table and nat entries idle for longer than the limits. The
    /// next one can start once [`Self::take_gc_report`] has returned the result.
    fn start_gc(&mut self, limits: GcLimits) -> Result<()>;

    /// Returns the result of the last garbage collection, once, when it is done.
    fn take_gc_report(&mut self) -> Option<Result<GcReport>>;

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

    /// Allows redirects to an interface.
    fn add_egress_interface(&mut self, interface: u32) -> Result<()>;

    /// Returns a snapshot of everything that decisions depend on, except flows.
    fn snapshot(&self) -> Snapshot;

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

/// Snapshot of everything that decisions depend on, taken at one time; used by `steer explain`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Settings with both banks.
    pub config: Config,
    /// Displacements of the active bank.
    pub displacements: Vec<u32>,
    /// Services of the active bank, by index.
    pub services: Vec<Service>,
    /// Class policies of both banks.
    pub policies: Vec<Service>,
    /// Class prefixes, with the number of significant address bits.
    pub classes: HashMap<(ClassKey, u32), ClassMatch>,
    /// DSCP tables of both banks.
    pub dscp_tables: Vec<DscpTable>,
    /// Source limits of both banks.
    pub limits: Vec<SourceLimit>,
    /// Mutable state of admission, by the numbers of services and classes.
    pub admission: Vec<Admission>,
    /// Members by number.
    pub members: Vec<Member>,
    /// Slots by index.
    pub slots: Vec<Slot>,
    /// Source addresses of `nat`.
    pub nat_sources: Vec<Address>,
    /// Denied prefixes, with lengths in bits of IPv6 addresses.
    pub denied: Vec<(Address, u32)>,
    /// Members of QUIC services by server id.
    pub cids: BTreeMap<CidKey, u16>,
    /// Ciphers of connection ids, indexed by their first three bits.
    pub cid_ciphers: [CidCipher; MAX_CID_CIPHERS as usize],
    /// This node's addresses by link.
    pub icmp_sources: HashMap<LinkKey, IcmpSource>,
    /// The node's MAC addresses, in hash-table order.
    pub node_macs: Vec<u64>,
    /// Properties of interfaces, in table order.
    pub interfaces: Vec<Interface>,
    /// Paths to routers.
    pub routers: BTreeMap<RouterKey, ClientNextHop>,
}
