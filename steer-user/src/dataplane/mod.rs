//! What the control loop asks of the data path.

mod attach;
mod batch;
mod cid_keys;
mod classes;
mod convert;
mod decap;
mod device;
mod footprint;
mod gate;
mod gateways;
mod host;
mod icmp_sources;
mod insist;
mod kept;
mod kernel;
mod kernel_maps;
mod links;
mod mapped;
mod memory;
mod memory_use;
mod neighbours;
mod object;
mod own_links;
mod own_macs;
mod perfect_hash;
mod pin_lock;
mod pinned_link;
mod pins;
mod place;
mod prefix;
mod record;
mod sizes;
mod specs;
mod sweep;
mod takeover;
pub mod testing;
mod trace;
mod traffic;
mod xdp;

pub use attach::{Attacher, interface_index};
pub use cid_keys::CidKeyFile;
pub use classes::{Class, check_classes};
pub use decap::{Decap, set_up as set_up_decap};
pub use device::{Attached, Device, Way};
pub(crate) use footprint::TRIE_ENTRY;
pub use gateways::{Gateway, Path, Prefix};
pub use host::{HostTables, Missed};
pub use icmp_sources::IcmpSources;
pub use kernel::{OLDEST_KERNEL, UPGRADE, check_kernel};
pub use kernel_maps::KernelMaps;
pub use memory::Memory;
pub use memory_use::MapMemory;
pub use neighbours::{Changes, Links, Neighbours, Route};
pub use object::{bench_object, decap_object, object, trace_object};
pub(crate) use own_links::mac_text;
pub use own_links::{FrameFilter, OwnLinks};
pub use own_macs::OwnMacs;
pub use perfect_hash::{PerfectHash, build as build_perfect_hash};
pub use pin_lock::PinLock;
pub use pins::Pins;
pub use sizes::Sizes;
pub use sweep::{now_ms, now_ns};
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
    Address, Admission, Back, CID_CIPHERS, CidCipher, CidKey, ClassKey, ClassMatch, Config,
    DscpTable, FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource, Interface, LinkKey, Mac,
    Measured, Member, MemberCounters, MemberState, NatForward, NatReverse, NatTimeouts, Refusals,
    RouterKey, Service, Signals, Slot, SourceKey, SourceLimit,
};

use crate::domain::latency::Waiting;

/// The data path as the control loop sees it. Nothing here waits for a packet.
pub trait Dataplane: Send {
    /// The settings as the kernel has them, without the banks' fields.
    fn config(&self) -> Config;

    /// Writes the settings. `active` and `banks` are left as they are: [`Self::publish`] owns them.
    fn set_config(&mut self, config: &Config);

    /// Replaces the source addresses of `nat`, IPv4 and IPv6, at most
    /// [`NAT_ADDRESSES`](steer_common::abi::NAT_ADDRESSES) each.
    fn set_nat_sources(&mut self, sources: &[IpAddr]) -> Result<()>;

    /// Makes exactly these prefixes of clients' addresses the ones that are denied. What stays is
    /// denied all the time.
    fn set_denied(&mut self, denied: &[(IpAddr, u8)]) -> Result<()>;

    /// Members of services of QUIC by server ids.
    fn cids(&self) -> BTreeMap<CidKey, u16>;

    /// Makes exactly these server ids known. What stays is known all the time.
    fn set_cids(&mut self, cids: &BTreeMap<CidKey, u16>) -> Result<()>;

    /// Reads the keys of encrypted connection ids, and makes exactly these ones known.
    ///
    /// # Errors
    /// If one cannot be read or is none. The keys of before stay.
    fn set_cid_keys(&mut self, keys: &[CidKeyFile]) -> Result<()>;

    /// The services that packets see now.
    fn services(&self) -> Vec<Service>;

    /// The policies of classes that packets see now.
    fn policies(&self) -> Vec<Service>;

    /// Makes exactly these services and their classes the ones that packets see, at once: they are
    /// written to the bank that is not in use, which then becomes the active one. A `limit` that they
    /// have is one of `limits`, counted from 1.
    fn publish_with(
        &mut self,
        services: &[Service],
        classes: &[Class],
        limits: &[SourceLimit],
    ) -> Result<()>;

    /// As [`Self::publish_with`], for services without classes.
    fn publish(&mut self, services: &[Service]) -> Result<()> {
        self.publish_with(services, &[], &[])
    }

    /// Forgets what was counted and is due for a service or class that gets this number.
    fn clear_policy(&mut self, id: u16) -> Result<()>;

    /// Sheds new flows of a service or class, by its number, if their priority is below this.
    fn set_pressure(&mut self, id: u16, pressure: u32);

    /// Writes how long flows of a service or class under `nat` are kept without a packet, by its number, in
    /// ticks; 0 is as long as the settings say.
    fn set_nat_idle(&mut self, id: u16, ticks: u32) {
        let _ = (id, ticks);
    }

    /// Makes frames for exactly these MAC addresses the node's; without any, frames for whomever.
    fn set_own_macs(&mut self, macs: Option<&[Mac]>) -> Result<()> {
        let _ = macs;
        Ok(())
    }

    /// Replaces what packets know of interfaces. Of two that share a place the first one is known.
    fn set_interfaces(&mut self, interfaces: &[Interface]) {
        let _ = interfaces;
    }

    /// Returns the ways to routers.
    fn routers(&self) -> BTreeMap<RouterKey, Back> {
        BTreeMap::new()
    }

    /// Replaces the ways to routers. What differs from before is looked up anew by the flows that it concerns.
    fn set_routers(&mut self, routers: &BTreeMap<RouterKey, Back>) -> Result<()> {
        let _ = routers;
        Ok(())
    }

    /// Flows in flight of a member that may have only so many, as the kernel counts them. There are none where no packets come.
    fn in_flight(&self, id: u16) -> i64 {
        let _ = id;
        0
    }

    /// Adds to what the kernel counts.
    fn add_in_flight(&mut self, id: u16, by: i64) {
        let _ = (id, by);
    }

    /// Member `id`, below [`MEMBERS`](steer_common::abi::MEMBERS).
    fn member(&self, id: u16) -> Member;

    /// Writes a member that no packet uses yet, or whose next hop changes: what concerns the next
    /// hop is written while [`RESOLVED`](steer_common::abi::member_flags::RESOLVED) is clear.
    fn set_member(&mut self, id: u16, member: &Member);

    /// Writes the one byte that all slots honour in the next packet.
    fn set_member_state(&mut self, id: u16, state: MemberState);

    /// Writes the bit by which new flows of a member try their slots' second choice.
    fn set_member_hot(&mut self, id: u16, hot: bool);

    /// The slots of a range of the arena.
    fn slots(&self, range: Range<u32>) -> Vec<Slot>;

    /// One slot.
    fn slot(&self, index: u32) -> Slot;

    /// Writes slots that no service names yet.
    fn write_slots(&mut self, start: u32, slots: &[Slot]);

    /// Replaces a slot that packets use, if it still is `old`; returns what it is otherwise.
    fn swap_slot(&mut self, index: u32, old: Slot, new: Slot) -> Result<(), Slot>;

    /// What was counted since the maps were made.
    fn counters(&self) -> Result<Counters>;

    /// What went to the members whose numbers are below `end` and came back, since the maps were made. Costs a
    /// system call.
    fn traffic(&mut self, end: u16) -> Result<Vec<MemberCounters>>;

    /// Begins to remove flows of the flow table and nat entries that were idle for longer than the
    /// limits. Until [`Self::swept`] gives the result no other begins.
    fn sweep(&mut self, limits: SweepLimits) -> Result<()>;

    /// What the last sweep left, once, when it is done.
    fn swept(&mut self) -> Option<Result<Sweep>>;

    /// Makes exactly these members the ones whose latencies are measured. What was measured of one that
    /// stays goes on.
    fn set_measured(&mut self, members: &[u16]) -> Result<()>;

    /// The latencies of a member since it is measured, all CPUs together, modulo 2^32.
    fn measured(&self, id: u16) -> Result<Option<Measured>>;

    /// Shows the same of all members that are measured, some with a system call.
    fn all_measured(&self, show: &mut dyn FnMut(u16, &Measured)) -> Result<()>;

    /// Signs of trouble with a member, since the maps were made. Costs no system call, so that it can be
    /// asked often.
    fn signals(&self, id: u16) -> Signals;

    /// Allows packets to be redirected to an interface.
    fn add_port(&mut self, interface: u32) -> Result<()>;

    /// A copy of what the decision depends on, but for flows.
    fn snapshot(&self) -> Snapshot;

    /// The entry of a flow in the flow table.
    fn flow(&self, key: &FlowKey) -> Option<FlowEntry>;

    /// The nat entry of a client's flow.
    fn nat_forward(&self, key: &FlowKey) -> Option<NatForward>;

    /// The nat entry of a backend's flow.
    fn nat_reverse(&self, key: &FlowKey) -> Option<NatReverse>;

    /// The entry of a flow of which more than the SYN was seen. Where no packets come there is one kind only.
    fn settled_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.flow(key)
    }

    /// The entry of a flow of which only the SYN was seen.
    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        let _ = key;
        None
    }

    /// What became of the first fragment of a packet.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        let _ = key;
        None
    }

    /// When a source's next new flow is due.
    fn source(&self, key: &SourceKey) -> Option<u64> {
        let _ = key;
        None
    }
}

/// Counters of all CPUs together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By member.
    pub members: Vec<MemberCounters>,
    /// Packets dropped, by the number of the reason.
    pub drops: Vec<u64>,
    /// What was refused, by the numbers of the services and classes that there are.
    pub refused: HashMap<u16, Refusals>,
}

/// How long flows are kept without a packet.
#[derive(Clone, Debug)]
pub struct SweepLimits {
    /// Flows of the flow table, in milliseconds.
    pub flow_idle_ms: u32,
    /// Nat entries.
    pub nat: NatTimeouts,
    /// Of members whose flows have others, by number.
    pub nat_idle: Vec<NatIdle>,
    /// A flow that has waited for an answer for longer than this is silent.
    pub silence: Duration,
}

/// How long nat entries of a member's flows are kept without a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatIdle {
    /// After so many ticks a flow is over; 0 is as long as for all others.
    pub idle_ms: u32,
    /// For so many ticks more the entries of a TCP flow tell who goes on that it is over.
    pub linger_ms: u32,
}

/// What a sweep left.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Slots of the arena that the flow table still holds flows of, with their member.
    pub tracked: Vec<(u32, u16)>,
    /// Nat flows by member.
    pub nat_flows: Vec<u32>,
    /// Of those, flows that are not over.
    pub in_flight: Vec<u32>,
    /// Nat flows that wait for an answer, by member; as long as the largest number of those that there are.
    pub waiting: Vec<Waiting>,
    /// Latencies of the members that are measured, modulo 2^32.
    pub measured: HashMap<u16, Measured>,
    /// Entries removed.
    pub removed: usize,
}

/// All that the decision depends on, copied at one time: what `steer explain` decides over.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Settings, with both banks.
    pub config: Config,
    /// Displacements of the active bank.
    pub displacements: Vec<u32>,
    /// Services of the active bank, by their index.
    pub services: Vec<Service>,
    /// Policies of classes, of both banks.
    pub policies: Vec<Service>,
    /// Prefixes of classes, with the number of bits of the address that count.
    pub classes: HashMap<(ClassKey, u32), ClassMatch>,
    /// Tables of DSCPs, of both banks.
    pub dscp_tables: Vec<DscpTable>,
    /// Limits of sources, of both banks.
    pub limits: Vec<SourceLimit>,
    /// What of admission changes, by the numbers of services and classes.
    pub admission: Vec<Admission>,
    /// Members by number.
    pub members: Vec<Member>,
    /// Slots by index.
    pub slots: Vec<Slot>,
    /// Source addresses of `nat`.
    pub nat_sources: Vec<Address>,
    /// Prefixes that are denied, with their lengths in bits of IPv6 addresses.
    pub denied: Vec<(Address, u32)>,
    /// Members of services of QUIC by server ids.
    pub cids: BTreeMap<CidKey, u16>,
    /// Ciphers of connection ids, by their first three bits.
    pub cid_ciphers: [CidCipher; CID_CIPHERS as usize],
    /// This node's addresses by links.
    pub icmp_sources: HashMap<LinkKey, IcmpSource>,
    /// The node's MAC addresses, each at its place.
    pub own_macs: Vec<u64>,
    /// What is known of interfaces, each at its place.
    pub interfaces: Vec<Interface>,
    /// Ways to routers.
    pub routers: BTreeMap<RouterKey, Back>,
}
