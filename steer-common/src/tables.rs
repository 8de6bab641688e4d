//! The maps, as the decision sees them.

use crate::{
    abi::{
        Address, Admission, Back, CidCipher, CidKey, ClassKey, ClassMatch, Config, FlowEntry,
        FlowKey, FragmentEntry, FragmentKey, IcmpSource, Interface, LinkKey, Macs, Member,
        NatForward, NatReverse, Opening, RouterKey, Service, Signal, Slot, SourceKey, SourceLimit,
    },
    cid::Server,
    verdict::DropReason,
    wire::Packet,
};

/// A step of the decision, for who wants to follow it. The kernel does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The service with this number matched.
    Service(u16),
    /// The client belongs to the class with this number.
    Class(u16),
    /// The flow fell into this slot of the arena.
    Slot(u32, Slot),
    /// The flow table knows the flow.
    Remembered(u16),
    /// The flow is new, and this member takes it.
    Picked(u16),
    /// The flow is open, and belongs to the slot's owner.
    Owner(u16),
    /// The flow was put into the flow table.
    Insert(u16),
    /// The connection id names this server, and the service has this member for it; 0 is none.
    ServerId(Server, u16),
    /// The nat table knows the flow.
    Translated(u16),
    /// A member that cannot take the packet.
    Unusable(u16),
    /// A member whose load, or number of flows, makes new flows try another one.
    Hot(u16),
    /// A SYN that was not answered, so another member is tried.
    Retry(u16),
    /// A member in a region that the service may not be served from.
    Outside(u16),
    /// No member takes new flows.
    EndOfChain,
}

/// Where a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// MAC addresses.
    pub macs: Macs,
    /// Interface.
    pub interface: u32,
    /// VLAN there; 0 if frames have no tag.
    pub vlan: u16,
    /// Longest IP packet that it takes; 0 if that is not known.
    pub mtu: u16,
    /// Interfaces that packets from there come in by: [`Member::reply_interfaces`].
    /// The program has no use for them here, and no room on its stack.
    #[cfg(feature = "user")]
    pub reply_interfaces: [u32; 2],
}

/// Whether an entry was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Added {
    /// It was.
    Yes,
    /// There is one already.
    Taken,
    /// There is no room.
    Full,
}

/// The maps. Implemented by the program over the real ones, and by the host over copies.
pub trait Tables {
    /// Whether paths of a program that differ in values only are merged by [`Self::launder`]. Programs that most
    /// packets go through have so few paths that it is not worth its instructions.
    const MERGES_PATHS: bool = false;

    /// Returns the same value, of which the verifier knows nothing if paths are merged: what follows is verified once, and
    /// not for each value.
    #[inline(always)]
    fn launder(&self, value: u64) -> u64 {
        value
    }

    /// The monotonic clock in ticks (see [`TICK_SHIFT`](crate::abi::TICK_SHIFT)). Asked only where a
    /// flow is remembered.
    fn now_ms(&self) -> u32;

    /// A clock for [`FlowEntry::stamp`], which costs nearly nothing.
    fn stamp(&self) -> u16;

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

    /// Keeps a packet for the program that goes on with it.
    fn keep_packet(&self, packet: &Packet);

    /// Returns the packet that was kept last.
    fn kept_packet(&self) -> Packet;

    /// The node's settings.
    fn config(&self) -> Option<&Config>;

    /// A displacement of the perfect hash, counted over both banks.
    fn displacement(&self, index: u32) -> Option<u32>;

    /// An entry of the perfect hash, counted over both banks.
    fn service(&self, index: u32) -> Option<&Service>;

    /// What the longest prefix of classes says of a client.
    fn class(&self, key: &ClassKey) -> Option<ClassMatch>;

    /// What a table of DSCPs, counted over both banks, says of one.
    fn class_by_dscp(&self, table: u16, dscp: u8) -> Option<u16>;

    /// The policy of a class, counted over both banks.
    fn policy(&self, index: u16) -> Option<&Service>;

    /// A slot of the arena.
    fn slot(&self, index: u32) -> Option<Slot>;

    /// Sets the slot's `seen`.
    fn mark_seen(&self, index: u32);

    /// Sets the slot's `track` to [`Track::Some`](crate::abi::Track::Some).
    fn mark_track(&self, index: u32);

    /// A member.
    fn member(&self, id: u16) -> Option<&Member>;

    /// Does something with an entry of the flow table, if there is one.
    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowEntry) -> R) -> Option<R>;

    /// Puts a flow into the flow table. False if that failed.
    fn remember(&self, key: &FlowKey, entry: &FlowEntry) -> bool;

    /// Removes what is remembered of a flow that goes on.
    fn forget(&self, key: &FlowKey);

    /// The entry of a flow of which only the SYN was seen.
    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry>;

    /// Remembers a flow by its SYN. False if that failed.
    fn remember_new(&self, key: &FlowKey, entry: &FlowEntry) -> bool;

    /// Forgets that of a flow only the SYN was seen.
    fn forget_new(&self, key: &FlowKey);

    /// A source address of `nat`: IPv4 from 0, IPv6 from [`NAT_ADDRESSES`](crate::abi::NAT_ADDRESSES).
    fn nat_source(&self, index: u32) -> Option<Address>;

    /// Does something with the entry of a client's flow, if there is one.
    fn with_forward<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatForward) -> R) -> Option<R>;

    /// Does something with the entry of a backend's flow, if there is one.
    fn with_reverse<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatReverse) -> R) -> Option<R>;

    /// Writes the entry of a client's flow. False if that failed.
    fn set_forward(&self, key: &FlowKey, entry: &NatForward) -> bool;

    /// Removes the entry of a client's flow.
    fn remove_forward(&self, key: &FlowKey);

    /// Writes the entry of a backend's flow, unless there is one.
    fn add_reverse(&self, key: &FlowKey, entry: &NatReverse) -> Added;

    /// Removes the entry of a backend's flow.
    fn remove_reverse(&self, key: &FlowKey);

    /// Does something with the next place in this CPU's ring of flows that began, which has `len` of them. Nothing
    /// if it has none.
    fn with_opening(&self, len: u32, f: impl FnOnce(&mut Opening));

    /// Does something with room for two entries, whose content is whatever it was before.
    fn with_draft<R>(&self, f: impl FnOnce(&mut NatForward, &mut NatReverse) -> R) -> Option<R>;

    /// The monotonic clock in nanoseconds, fine. It costs more than [`Self::now_ns`].
    fn now_fine(&self) -> u64;

    /// Counts a latency of a member: a [`Measure`](crate::abi::Measure) by its number, in nanoseconds.
    fn measure(&self, id: u16, measure: u8, ns: u64);

    /// Counts a sign of trouble with a member.
    fn signal(&self, id: u16, signal: Signal);

    /// The member that a server id of QUIC stands for.
    fn cid_member(&self, key: &CidKey) -> Option<u16>;

    /// The cipher of connection ids with these first three bits.
    fn cid_cipher(&self, rotation: u8) -> Option<&CidCipher>;

    /// Whether a client's address is denied.
    fn is_denied(&self, client: &Address) -> bool;

    /// The monotonic clock in nanoseconds, as coarse as the kernel's ticks.
    fn now_ns(&self) -> u64;

    /// Does something with what of admission changes, of a service or class by its number.
    fn with_admission<R>(&self, policy: u16, f: impl FnOnce(&mut Admission) -> R) -> Option<R>;

    /// A limit for sources, counted over both banks.
    fn source_limit(&self, index: u16) -> Option<&SourceLimit>;

    /// Does something with the time when a source's next new flow is due, if it is known.
    fn with_source<R>(&self, key: &SourceKey, f: impl FnOnce(&mut u64) -> R) -> Option<R>;

    /// Notes when a source's next new flow is due, if there is room.
    fn set_source(&self, key: &SourceKey, due: u64);

    /// Counts what was refused for a service or class, by its number.
    fn count_refusal(&self, policy: u16, reason: DropReason);

    /// Flows in flight of a member. Less than 0 is none.
    fn in_flight(&self, id: u16) -> i64;

    /// Adds to them.
    fn add_in_flight(&self, id: u16, by: i64);

    /// What became of the first fragment of a packet.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;

    /// Notes what became of a first fragment. False if that failed.
    fn set_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool;

    /// Whether one more ICMP error may be sent now (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4).
    fn may_answer(&self) -> bool;

    /// This node's addresses on a link, for ICMP errors.
    fn icmp_source(&self, link: &LinkKey) -> Option<IcmpSource>;

    /// Asks the kernel's routing for the way to a member, because the daemon has not said it.
    fn route(&self, packet: &Packet, member: &Member) -> Option<NextHop>;

    /// The MAC address of the node's at a place of [`OWN_MACS`](crate::abi::maps::OWN_MACS).
    fn own_mac(&self, place: u32) -> Option<u64>;

    /// What is known of an interface.
    fn interface(&self, index: u32) -> Option<&Interface>;

    /// The way to a router, or to the one that took over from it.
    fn router(&self, key: &RouterKey) -> Option<Back>;

    /// Whether the kernel forwards no packet for this address that comes in by an interface: it is the node's own,
    /// or the node does not forward.
    fn keeps(&self, address: Address, family: u8, interface: u32) -> bool;

    /// Counts a packet for a member, with what it begins: [`begins`](crate::abi::begins).
    fn count_member(&self, id: u16, bytes: u64, begins: u8);

    /// Counts a packet from a member, with so many bytes of content.
    fn count_reply(&self, id: u16, content: u64);

    /// Counts a drop that the program's result does not show.
    fn count_drop(&self, reason: DropReason);

    /// Follows what is looked at: the flow of a packet, as far as it is known by now.
    #[inline(always)]
    fn see(&self, key: &FlowKey) {
        let _ = key;
    }

    /// Follows the decision.
    #[inline(always)]
    fn note(&self, step: Step) {
        let _ = step;
    }
}
