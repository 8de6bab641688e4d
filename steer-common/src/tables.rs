//! The maps, as the decision sees them.

use crate::{
    abi::{
        Address, Admission, CidCipher, CidKey, ClassKey, ClassMatch, ClientNextHop, Config,
        FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource, Interface, LinkKey, Macs,
        Member, NatForward, NatReverse, RouterKey, Service, Signal, Slot, SourceKey, SourceLimit,
        UnassuredFlow,
    },
    cid::Server,
    verdict::DropReason,
    wire::Packet,
};

/// A step of the decision, for callers that trace it. The kernel does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The service with this number matched.
    Service(u16),
    /// The client belongs to the class with this number.
    Class(u16),
    /// The flow belongs to this slot of the arena.
    Slot(u32, Slot),
    /// The flow has an entry in the flow table.
    FlowTableHit(u16),
    /// The flow is new, and this member takes it.
    Picked(u16),
    /// The flow is open, and belongs to the slot's owner.
    Owner(u16),
    /// The flow was inserted into the flow table.
    Insert(u16),
    /// The connection id names this server, and the service has this member for it; 0 is none.
    ServerId(Server, u16),
    /// The flow has an entry in the nat table.
    NatHit(u16),
    /// A member that cannot take the packet.
    Unavailable(u16),
    /// A member whose load, or number of flows, makes new flows try another one.
    Hot(u16),
    /// A SYN was unanswered, so another member is tried.
    Retry(u16),
    /// A member in a region that may not serve the service.
    OutsideRegion(u16),
    /// No member takes new flows.
    EndOfChain,
}

/// Next hop of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// MAC addresses.
    pub macs: Macs,
    /// Interface.
    pub interface: u32,
    /// VLAN there; 0 if frames have no tag.
    pub vlan: u16,
    /// MTU of the path; 0 if unknown.
    pub mtu: u16,
    /// Interfaces on which packets from there arrive: [`Member::reply_interfaces`]. The program
    /// does not need them here, and has no room on its stack.
    #[cfg(feature = "host")]
    pub reply_interfaces: [u32; 2],
}

/// Result of adding an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum InsertResult {
    /// The entry was added.
    Inserted,
    /// An entry exists already.
    Exists,
    /// The table is full.
    Full,
}

/// The maps. Implemented by the program over the real ones, and by the host over copies.
pub trait Tables {
    /// Selects merging of paths that differ in values only, by [`Self::launder`]. Programs that most
    /// packets go through have so few paths that it is not worth its instructions.
    const MERGES_PATHS: bool = false;

    /// Returns the same value, of which the verifier knows nothing if paths are merged: what follows is verified once, and
    /// not for each value.
    #[inline(always)]
    fn launder(&self, value: u64) -> u64 {
        value
    }

    /// Returns the monotonic clock in ticks (see [`TICK_SHIFT`](crate::abi::TICK_SHIFT)). Read only
    /// for flows with an entry.
    fn now_ticks(&self) -> u32;

    /// Returns a clock for [`FlowEntry::coarse_tick`], which is almost free.
    fn coarse_tick(&self) -> u16;

    /// Returns the same flags, with the paths merged that led to them.
    #[inline(always)]
    fn merged<const N: usize>(&self, flags: [bool; N]) -> [bool; N] {
        if !Self::MERGES_PATHS {
            return flags;
        }
        let bits = (0..).zip(flags).map(|(at, flag)| u64::from(flag) << at);
        let word = self.launder(bits.fold(0, |word, bit| word | bit));
        core::array::from_fn(|at| word >> at & 1 != 0)
    }

    /// Stores a packet for the next program.
    fn store_packet(&self, packet: &Packet);

    /// Returns the packet that was stored last.
    fn stored_packet(&self) -> Packet;

    /// Stores a packet for this program and the next ones, and returns it with all paths merged that
    /// tags, options and extension headers can lead to: the verifier follows the rest once.
    #[inline(always)]
    fn store_and_merge(&self, packet: Packet) -> Packet {
        self.store_packet(&packet);
        Packet {
            kind: packet.kind,
            ..self.stored_packet()
        }
    }

    /// Returns the node's settings.
    fn config(&self) -> Option<&Config>;

    /// Returns a displacement of the perfect hash, indexed over both banks.
    fn displacement(&self, index: u32) -> Option<u32>;

    /// Returns an entry of the perfect hash, indexed over both banks.
    fn service(&self, index: u32) -> Option<&Service>;

    /// Returns the class match of a client's longest prefix.
    fn class(&self, key: &ClassKey) -> Option<ClassMatch>;

    /// Returns the policy of a DSCP in a table indexed over both banks.
    fn class_by_dscp(&self, table: u16, dscp: u8) -> Option<u16>;

    /// Returns the policy of a class, indexed over both banks.
    fn policy(&self, index: u16) -> Option<&Service>;

    /// Returns a slot of the arena.
    fn slot(&self, index: u32) -> Option<Slot>;

    /// Sets the slot's `seen`.
    fn mark_seen(&self, index: u32);

    /// Sets the slot's `track` to [`Track::Some`](crate::abi::Track::Some).
    fn mark_track(&self, index: u32);

    /// Returns a member.
    fn member(&self, id: u16) -> Option<&Member>;

    /// Calls a function with an entry of the flow table, if there is one.
    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowEntry) -> R) -> Option<R>;

    /// Inserts a flow into the flow table. Returns false on failure.
    fn insert_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool;

    /// Removes the entry of a flow of which more than the SYN has been seen.
    fn remove_flow(&self, key: &FlowKey);

    /// Returns the entry of a flow of which only the SYN has been seen.
    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry>;

    /// Inserts a flow by its SYN. Returns false on failure.
    fn insert_new_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool;

    /// Removes the entry of a flow of which only the SYN has been seen.
    fn remove_new_flow(&self, key: &FlowKey);

    /// Returns a source address of `nat`: IPv4 from 0, IPv6 from
    /// [`MAX_NAT_ADDRESSES`](crate::abi::MAX_NAT_ADDRESSES).
    fn nat_source(&self, index: u32) -> Option<Address>;

    /// Calls a function with the entry of a client's flow, if there is one.
    fn with_forward<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatForward) -> R) -> Option<R>;

    /// Calls a function with the entry of a backend's flow, if there is one.
    fn with_reverse<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatReverse) -> R) -> Option<R>;

    /// Writes the entry of a client's flow. Returns false on failure.
    fn set_forward(&self, key: &FlowKey, entry: &NatForward) -> bool;

    /// Removes the entry of a client's flow.
    fn remove_forward(&self, key: &FlowKey);

    /// Adds the entry of a backend's flow, unless there is one.
    fn add_reverse(&self, key: &FlowKey, entry: &NatReverse) -> InsertResult;

    /// Removes the entry of a backend's flow.
    fn remove_reverse(&self, key: &FlowKey);

    /// Calls a function with the next position in this CPU's ring of new flows, of length `len`.
    /// Does nothing if there is no ring.
    fn with_unassured(&self, len: u32, f: impl FnOnce(&mut UnassuredFlow));

    /// Calls a function with scratch space for two entries, of unspecified content.
    fn with_nat_scratch<R>(
        &self,
        f: impl FnOnce(&mut NatForward, &mut NatReverse) -> R,
    ) -> Option<R>;

    /// Returns the fine monotonic clock in nanoseconds. More expensive than [`Self::now_coarse_ns`].
    fn now_precise_ns(&self) -> u64;

    /// Counts a latency of a member: a [`Measure`](crate::abi::Measure) by its number, in
    /// nanoseconds.
    fn record_latency(&self, id: u16, measure: u8, ns: u64);

    /// Counts a sign of trouble with a member.
    fn count_signal(&self, id: u16, signal: Signal);

    /// Returns the member of a QUIC server id.
    fn cid_member(&self, key: &CidKey) -> Option<u16>;

    /// Returns the cipher of connection ids with these first three bits.
    fn cid_cipher(&self, rotation: u8) -> Option<&CidCipher>;

    /// Returns whether a client's address is denied.
    fn is_denied(&self, client: &Address) -> bool;

    /// Returns the coarse monotonic clock in nanoseconds, with the resolution of the kernel's
    /// ticks.
    fn now_coarse_ns(&self) -> u64;

    /// Calls a function with the mutable state of admission of a service or class, by its number.
    fn with_admission<R>(&self, policy: u16, f: impl FnOnce(&mut Admission) -> R) -> Option<R>;

    /// Returns a source limit, indexed over both banks.
    fn source_limit(&self, index: u16) -> Option<&SourceLimit>;

    /// Calls a function with the time at which a source's next new flow is due, if known.
    fn with_source<R>(&self, key: &SourceKey, f: impl FnOnce(&mut u64) -> R) -> Option<R>;

    /// Stores the time at which a source's next new flow is due, if there is room.
    fn set_source(&self, key: &SourceKey, due: u64);

    /// Counts a refused flow of a service or class, by its number.
    fn count_refusal(&self, policy: u16, reason: DropReason);

    /// Returns the flows in flight of a member. A negative number counts as none.
    fn in_flight(&self, id: u16) -> i64;

    /// Adds to the flows in flight of a member.
    fn add_in_flight(&self, id: u16, by: i64);

    /// Returns the decision for the first fragment of a packet.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;

    /// Stores the decision for a first fragment. Returns false on failure.
    fn set_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool;

    /// Returns whether one more ICMP error may be sent now (RFC 1812 section 4.3.2.8, RFC 4443
    /// section 2.4).
    fn may_send_icmp(&self) -> bool;

    /// Returns this node's addresses on a link, for ICMP errors.
    fn icmp_source(&self, link: &LinkKey) -> Option<IcmpSource>;

    /// Queries the kernel's routing for the next hop to a member that the daemon has not resolved.
    fn fib_lookup(&self, packet: &Packet, member: &Member) -> Option<NextHop>;

    /// Returns the node's MAC address at a position of [`NODE_MACS`](crate::abi::maps::NODE_MACS).
    fn node_mac(&self, position: u32) -> Option<u64>;

    /// Returns the properties of an interface.
    fn interface(&self, index: u32) -> Option<&Interface>;

    /// Returns the path to a router, or to the one that took over from it.
    fn router(&self, key: &RouterKey) -> Option<ClientNextHop>;

    /// Returns whether the kernel does not forward packets for this address from an interface: it
    /// is the node's own, or the node does not forward.
    fn is_local(&self, address: Address, family: u8, interface: u32) -> bool;

    /// Counts a packet for a member, with its events: [`begins`](crate::abi::begins).
    fn count_member(&self, id: u16, bytes: u64, begins: u8);

    /// Counts a packet from a member, with the length of its payload.
    fn count_reply(&self, id: u16, content: u64);

    /// Counts a drop that the program's result does not show.
    fn count_drop(&self, reason: DropReason);

    /// Traces the flow of a packet, as far as it is known by now.
    #[inline(always)]
    fn trace_flow(&self, key: &FlowKey) {
        let _ = key;
    }

    /// Traces a step of the decision.
    #[inline(always)]
    fn trace_step(&self, step: Step) {
        let _ = step;
    }
}
