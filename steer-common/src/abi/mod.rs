//! Keys and values of the maps that kernel and daemon share.
//!
//! Every type here is `repr(C)`, without padding bytes that are not fields, and of a size that is
//! asserted. A change of any of them is a change of [`ABI_VERSION`].

mod address;
mod admission;
pub mod bench;
mod cid;
mod class;
mod config;
mod counters;
mod flow;
mod fragment;
mod icmp;
mod layout;
mod link;
mod measure;
mod member;
mod nat;
mod service;
mod slot;
mod trace;

pub use address::{Address, Family, MAC_LEN, Mac, Macs};
pub use admission::{Admission, Refusals, SourceKey, SourceLimit};
pub use cid::{CidCipher, CidKey, CidLayouts};
pub use class::{ClassKey, ClassMatch, DSCPS, DscpTable};
pub use config::{Bank, Config, nat_flags};
pub use counters::{MemberCounters, begins};
pub use flow::{FlowEntry, FlowKey, STAMP_SHIFT, STAMP_TICKS};
pub use fragment::{FragmentEntry, FragmentFate, FragmentKey};
pub use icmp::{IcmpSource, LinkKey};
pub use layout::{Field, Layout};
pub use link::{Interface, RouterKey, first_mac, mac_word, own_mac_place};
pub use measure::{BUCKETS, Measure, Measured, Signal, Signals, bucket, bucket_start};
pub use member::{Member, MemberState, Mode, member_flags};
pub use nat::{Back, NatForward, NatReverse, NatTimeouts, Opening, Sequence, nat_state};
pub use service::{Service, ServiceKey, service_flags};
pub use slot::{Slot, Track};
pub use trace::{
    TRACE_ANY, TRACE_BYTES, TRACE_FIRST, TRACE_PROGRAMS, TRACE_RING, TRACE_SERVICES, TRACE_TOLD,
    TRACE_USUAL, TraceEvent, TraceFilter, TraceState, TraceVerdict, trace_steps,
};

/// Version of the maps' layout. Part of the pin path. A daemon of another version takes over what is
/// pinned: [`Layout`] says how.
pub const ABI_VERSION: u32 = if cfg!(feature = "next-abi") { 4 } else { 3 };

/// Times in the maps, `*_ms`, are nanoseconds of the monotonic clock shifted right by this, cut to 32
/// bits: milliseconds but for 5 %, without a division for each packet.
pub const TICK_SHIFT: u32 = 20;

/// Ticks from `then` to `now`. What another CPU wrote a moment after `now` was read has no age.
#[inline(always)]
pub const fn age(now: u32, then: u32) -> u32 {
    let age = now.wrapping_sub(then);
    if age > u32::MAX / 2 { 0 } else { age }
}

/// Slots in the arena that all tables share.
pub const SLOTS: u32 = 1 << 21;
/// Members, of which number 0 is "none".
pub const MEMBERS: u32 = 1 << 14;
/// Entries of the perfect hash in one bank. At most half of them are used.
pub const SERVICES: u32 = 1 << 13;
/// Policies of classes in one bank. Number 0 is none.
pub const CLASSES: u32 = 1 << 12;
/// Prefixes of classes, over both banks.
pub const CLASS_PREFIXES: u32 = 1 << 16;
/// Tables of DSCPs in one bank. Number 0 is none.
pub const DSCP_TABLES: u32 = 1 << 10;
/// Limits for sources in one bank. Number 0 is none.
pub const LIMITS: u32 = 1 << 10;
/// Sources whose new flows are counted at a time.
pub const SOURCES: u32 = 1 << 15;
/// Displacements of the perfect hash in one bank.
pub const DISPLACEMENTS: u32 = 1 << 12;
/// Flows that the flow table remembers.
pub const FLOWS: u32 = 1 << 18;
/// Flows of which the flow table has seen no more than the SYN.
pub const NEW_FLOWS: u32 = 1 << 15;
/// Flows with rewritten addresses, in each direction.
pub const NAT_FLOWS: u32 = 1 << 18;
/// Of those, flows whose client has not gone on after an answer, over all CPUs; newer ones push out
/// older ones.
pub const OPENINGS: u32 = 56 * 1024;
/// Source addresses for `nat` of one family. IPv4 addresses come first in the map, then IPv6.
pub const NAT_ADDRESSES: u32 = 64;
/// Packets whose fragments are followed at a time.
pub const FRAGMENTS: u32 = 1 << 13;
/// Regions: the bits of [`Service::regions`].
pub const REGIONS: u8 = 64;
/// Prefixes that are denied.
pub const DENIED: u32 = 1 << 16;
/// Nodes that a decap program accepts packets from.
pub const DECAP_SOURCES: u32 = 1024;
/// Server ids of QUIC connection ids, over all services and layouts.
pub const CIDS: u32 = 1 << 15;
/// Ciphers of connection ids, by their first three bits.
pub const CID_CIPHERS: u32 = 8;
/// Links that ICMP errors can be sent by.
pub const ICMP_SOURCES: u32 = 1024;
/// Places for the node's own MAC addresses.
pub const OWN_MACS: u32 = 1 << 12;
/// Places for interfaces. Of two whose indexes share one only the first is known there.
pub const INTERFACES: u32 = 1 << 8;
/// MAC addresses of routers, and of those that others took over from.
pub const ROUTERS: u32 = 1 << 10;
/// Interfaces that packets can be redirected to.
pub const PORTS: u32 = 64;

/// Names of the programs in [`maps::PROGRAMS`], by their index there.
pub const PROGRAMS: [&str; 18] = [
    "steer_rare",
    "steer_follow",
    "steer_too_big",
    "steer_open",
    "steer_main",
    "steer_quote",
    "steer_general",
    "steer_v6",
    "steer_quic",
    "steer_translate",
    "steer_quic_decrypt",
    "steer_time_exceeded",
    "steer_reset",
    "steer_check",
    "steer_martian",
    "steer_segment",
    "steer_retry",
    "steer_verify",
];
/// Index in [`maps::PROGRAMS`] of the program for first fragments.
pub const RARE: u32 = 0;
/// Index of the program for later fragments.
pub const FOLLOW: u32 = 1;
/// Index of the program that answers packets that are too big.
pub const TOO_BIG: u32 = 2;
/// Index of the program that opens flows with rewritten addresses.
pub const OPEN: u32 = 3;
/// Index of the program that every packet comes to first. It is the same in all versions: programs of another
/// one hand packets to it while they take over.
pub const MAIN: u32 = 4;
/// Index of the program for ICMP errors.
pub const QUOTE: u32 = 5;
/// Index of the program for packets with VLAN tags, options or extension headers.
pub const GENERAL: u32 = 6;
/// Index of the program for IPv6.
pub const V6: u32 = 7;
/// Index of the program for services of QUIC.
pub const QUIC: u32 = 8;
/// Index of the program that rewrites addresses of QUIC packets.
pub const TRANSLATE: u32 = 9;
/// Index of the program that decrypts connection ids.
pub const QUIC_DECRYPT: u32 = 10;
/// Index of the program that answers packets whose TTL ends at this node.
pub const TIME_EXCEEDED: u32 = 11;
/// Index of the program that answers TCP segments with resets.
pub const RESET: u32 = 12;
/// Index of the program that looks twice at flows with rewritten addresses.
pub const CHECK: u32 = 13;
/// Index of the program for packets from sources that there are not.
pub const MARTIAN: u32 = 14;
/// Index of the program for TCP segments under `nat` that begin or end a connection, or whose sequence numbers are
/// not near those that were seen last.
pub const SEGMENT: u32 = 15;
/// Index of the program that sends a SYN elsewhere which its member under `nat` did not answer.
pub const RETRY: u32 = 16;
/// Index of the program that verifies the checksum of a segment that opens a flow.
pub const VERIFY: u32 = 17;

/// Name of the program that packets come to first while programs of another version take over.
pub const GATE: &str = "steer_gate";
/// In [`maps::GATE`]: packets go to the programs of this version, for good.
pub const GATE_OPEN: u64 = u64::MAX;

/// Names of the maps, which the kernel cuts at 15 bytes.
pub mod maps {
    /// Array of one [`Config`](super::Config), mapped.
    pub const CONFIG: &str = "CONFIG";
    /// Array of [`Service`](super::Service), two banks, and behind them two banks of policies of
    /// classes, mapped.
    pub const SERVICES: &str = "SERVICES";
    /// Trie of [`ClassKey`](super::ClassKey) to [`ClassMatch`](super::ClassMatch), two banks.
    pub const CLASSES: &str = "CLASSES";
    /// Array of [`DscpTable`](super::DscpTable), two banks, mapped.
    pub const CLASS_DSCP: &str = "CLASS_DSCP";
    /// Array of `u32` displacements, two banks, mapped.
    pub const DISPLACEMENTS: &str = "DISPLACEMENTS";
    /// Array of [`Slot`](super::Slot), mapped.
    pub const SLOTS: &str = "SLOTS";
    /// Array of [`Member`](super::Member), mapped.
    pub const MEMBERS: &str = "MEMBERS";
    /// Array of [`Address`](super::Address), mapped.
    pub const NAT_SOURCES: &str = "NAT_SOURCES";
    /// LRU hash of [`FlowKey`](super::FlowKey) to [`FlowEntry`](super::FlowEntry).
    pub const FLOWS: &str = "FLOWS";
    /// As [`FLOWS`], for flows of which no more than the SYN was seen: a flood of SYNs pushes out
    /// others of its kind, and no open flow.
    pub const NEW_FLOWS: &str = "NEW_FLOWS";
    /// Hash of [`FlowKey`](super::FlowKey) (client to VIP) to [`NatForward`](super::NatForward).
    pub const NAT_FORWARD: &str = "NAT_FORWARD";
    /// Hash of [`FlowKey`](super::FlowKey) (backend to node) to [`NatReverse`](super::NatReverse).
    pub const NAT_REVERSE: &str = "NAT_REVERSE";
    /// Array of [`Opening`](super::Opening): a ring for each CPU, one behind the other.
    pub const OPENINGS: &str = "OPENINGS";
    /// Per-CPU hash of members' numbers to [`Measured`](super::Measured): those that are measured.
    pub const MEASURED: &str = "MEASURED";
    /// Array of [`Signals`](super::Signals), by member, mapped.
    pub const SIGNALS: &str = "SIGNALS";
    /// LRU hash of [`FragmentKey`](super::FragmentKey) to [`FragmentEntry`](super::FragmentEntry).
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Array of programs that take over from the main one: see [`RARE`](super::RARE).
    pub const PROGRAMS: &str = "PROGRAMS";
    /// Trie of prefixes of clients' [`Address`](super::Address)es that are denied.
    pub const DENIED: &str = "DENIED";
    /// Array of [`Admission`](super::Admission) by the number of a service or class, mapped.
    pub const ADMISSION: &str = "ADMISSION";
    /// Array of `u64` by member: open flows under `nat` of those that may have only so many, mapped.
    pub const IN_FLIGHT: &str = "IN_FLIGHT";
    /// Array of [`SourceLimit`](super::SourceLimit), two banks, mapped.
    pub const LIMITS: &str = "LIMITS";
    /// LRU hash of [`SourceKey`](super::SourceKey) to `u64`: when the source's next new flow is due.
    pub const SOURCES: &str = "SOURCES";
    /// Per-CPU array of [`Refusals`](super::Refusals), by the number of a service or class.
    pub const REFUSED: &str = "REFUSED";
    /// Hash of [`CidKey`](super::CidKey) to `u32`: the member that a server id of QUIC stands for.
    pub const CIDS: &str = "CIDS";
    /// Array of [`CidCipher`](super::CidCipher), by the first three bits of connection ids.
    pub const CID_CIPHERS: &str = "CID_CIPHERS";
    /// Hash of [`LinkKey`](super::LinkKey) to [`IcmpSource`](super::IcmpSource): this node's addresses by
    /// the links that packets come in by.
    pub const ICMP_SOURCES: &str = "ICMP_SOURCES";
    /// Per-CPU array of [`MemberCounters`](super::MemberCounters), by member.
    pub const MEMBER_COUNTS: &str = "MEMBER_COUNTS";
    /// Array of bytes: what the keys and values of the maps beside it look like. It is made by the daemon,
    /// and no program has it.
    pub const LAYOUT: &str = "LAYOUT";
    /// Array of one `u64`, mapped, of [`GATE`](super::GATE): [`GATE_OPEN`](super::GATE_OPEN), or until which
    /// nanosecond of the monotonic clock packets are held; after that they go to the programs of before.
    pub const GATE: &str = "GATE";
    /// Array of programs: [`PROGRAMS`] of the version that is taken over from.
    pub const BEFORE: &str = "BEFORE";
    /// Per-CPU array of `u64`, by drop reason.
    pub const DROP_COUNTS: &str = "DROP_COUNTS";
    /// Array of one [`TraceFilter`](super::TraceFilter), of the tracing programs only, as the next three.
    pub const TRACE_FILTER: &str = "TRACE_FILTER";
    /// Per-CPU array of one [`TraceState`](super::TraceState).
    pub const TRACE_STATE: &str = "TRACE_STATE";
    /// Ring of [`TraceEvent`](super::TraceEvent)s.
    pub const TRACE_EVENTS: &str = "TRACE_EVENTS";
    /// Array of [`TRACE_PROGRAMS`](super::TRACE_PROGRAMS).
    pub const TRACE_PROGRAMS: &str = "TRACE_PROGRAMS";
    /// Devmap hash of interfaces, by index.
    pub const PORTS: &str = "PORTS";
    /// Array of `u64`, mapped: the node's MAC addresses, each at its
    /// [`own_mac_place`](super::own_mac_place).
    pub const OWN_MACS: &str = "OWN_MACS";
    /// Array of [`Interface`](super::Interface), mapped.
    pub const INTERFACES: &str = "INTERFACES";
    /// Hash of [`RouterKey`](super::RouterKey) to [`Back`](super::Back): the way to whoever a router's
    /// frames came from. Where another router took over it is the way to that one.
    pub const ROUTERS: &str = "ROUTERS";
    /// Trie of prefixes of outer source [`Address`](super::Address)es that the decap program accepts.
    pub const DECAP_SOURCES: &str = "DECAP_SOURCES";
    /// Array of one `u32`: the UDP port of GUE that the decap program takes.
    pub const DECAP_PORT: &str = "DECAP_PORT";
    /// Per-CPU array of `u64` of the decap program: packets it stripped at 0, drops by their reason.
    pub const DECAP_COUNTS: &str = "DECAP_COUNTS";
}

/// Asserts the size of each type, and lets aya read and write it as bytes.
macro_rules! abi {
    ($($type:ty: $size:expr,)*) => {$(
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: `repr(C)`, `Copy`, and made of integers only, without implicit padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )*};
}

abi! {
    Address: 16,
    Admission: 16,
    Back: 32,
    ClassKey: 24,
    ClassMatch: 4,
    DscpTable: 128,
    Macs: 16,
    CidCipher: 216,
    CidKey: 16,
    CidLayouts: 24,
    Config: 192,
    FlowKey: 40,
    FlowEntry: 16,
    FragmentKey: 40,
    FragmentEntry: 12,
    IcmpSource: 32,
    LinkKey: 8,
    Interface: 16,
    Member: if cfg!(feature = "next-abi") { 72 } else { 64 },
    MemberCounters: 56,
    Measured: 3328,
    NatForward: 96,
    NatReverse: 112,
    NatTimeouts: 20,
    Opening: 48,
    Refusals: 64,
    RouterKey: 16,
    Service: 64,
    Signals: 40,
    Slot: 8,
    Sequence: 16,
    SourceKey: 24,
    SourceLimit: 32,
    TraceFilter: 72,
    TraceEvent: 344,
    TraceState: 376,
}
