//! Keys and values of the maps shared by kernel and daemon.
//!
//! Every type here is `repr(C)`, without implicit padding, and of an asserted size. Any change of
//! them is a change of [`ABI_VERSION`].

mod address;
mod admission;
pub mod bench;
mod cid;
mod class;
mod config;
mod counters;
mod drop_reason;
mod flow;
mod fragment;
mod icmp;
mod layout;
mod link;
pub mod maps;
mod measure;
mod member;
mod mode;
mod nat;
mod programs;
mod service;
mod slot;
mod trace;

pub use address::{Address, Family, MAC_LEN, Mac, Macs};
pub use admission::{Admission, AdmissionDrops, SourceKey, SourceLimit};
pub use cid::{CidCipher, CidKey, CidLayouts};
pub use class::{ClassKey, ClassMatch, DSCPS, DscpTable};
pub use config::{Bank, Config, nat_flags};
pub use counters::{MemberCounters, begins};
pub use drop_reason::DropReason;
pub use flow::{COARSE_SHIFT, COARSE_TICKS, FlowEntry, FlowKey};
pub use fragment::{FragmentEntry, FragmentFate, FragmentKey};
pub use icmp::{IcmpSource, LinkKey};
pub use layout::{Field, Layout};
pub use link::{Interface, RouterKey, first_mac, mac_word, node_mac_index};
pub use measure::{BUCKETS, LatencyBuckets, Measure, Signal, Signals, bucket, bucket_start};
pub use member::{Member, MemberState, member_flags};
pub use mode::{Mode, OuterHeaders, SourceList};
pub use nat::{
    ClientNextHop, NatForward, NatReverse, NatTimeouts, Sequence, UnassuredFlow, nat_state,
};
pub use programs::{
    FIRST_FRAGMENT, GENERAL, ICMP_ERROR, LATER_FRAGMENT, MAIN, MARTIAN, NAT_CREATE, NAT_QUIC,
    NAT_RETRY, NAT_REVALIDATE, NAT_TCP, PROGRAMS, QUIC, QUIC_DECRYPT, RESET, TIME_EXCEEDED,
    TOO_BIG, V6, VERIFY_CHECKSUM, checksum_purpose,
};
pub use service::{Service, ServiceKey, service_flags};
pub use slot::{Slot, Track};
pub use trace::{
    TRACE_ANY, TRACE_BYTES, TRACE_EMIT, TRACE_FIRST, TRACE_MAIN, TRACE_PROGRAMS, TRACE_RING,
    TRACE_SERVICES, TraceEvent, TraceFilter, TraceState, TraceVerdict, trace_steps,
};

/// Version of the maps' layout, part of the pin path. A daemon of another version takes over pinned
/// maps by their [`Layout`].
pub const ABI_VERSION: u32 = if cfg!(feature = "next-abi") { 4 } else { 3 };

/// Shift from nanoseconds of the monotonic clock to the ticks of times in the maps, cut to 32 bits:
/// 2^20 ns, without a division per packet.
pub const TICK_SHIFT: u32 = 20;

/// Returns the ticks from `then` to `now`. A time written by another CPU just after `now` was read
/// has age 0.
#[inline(always)]
pub const fn age(now: u32, then: u32) -> u32 {
    let age = now.wrapping_sub(then);
    if age > u32::MAX / 2 { 0 } else { age }
}

/// Number of slots in the arena shared by all tables.
pub const MAX_SLOTS: u32 = 1 << 21;
/// Number of members, of which 0 is "none".
pub const MAX_MEMBERS: u32 = 1 << 14;
/// Number of entries of the perfect hash in one bank. At most half of them are used.
pub const MAX_SERVICE_ENTRIES: u32 = 1 << 13;
/// Number of class policies in one bank, of which 0 is "none".
pub const MAX_CLASS_POLICIES: u32 = 1 << 12;
/// Number of class prefixes, over both banks.
pub const MAX_CLASS_PREFIXES: u32 = 1 << 16;
/// Number of DSCP tables in one bank, of which 0 is "none".
pub const MAX_DSCP_TABLES: u32 = 1 << 10;
/// Number of source limits in one bank, of which 0 is "none".
pub const MAX_SOURCE_LIMITS: u32 = 1 << 10;
/// Number of sources whose new flows are tracked at a time.
pub const MAX_LIMITED_SOURCES: u32 = 1 << 15;
/// Number of displacements of the perfect hash in one bank.
pub const MAX_DISPLACEMENTS: u32 = 1 << 12;
/// Default capacity of the flow table.
pub const MAX_FLOWS: u32 = 1 << 18;
/// Capacity for flows of which only the SYN has been seen.
pub const MAX_NEW_FLOWS: u32 = 1 << 15;
/// Default capacity of the nat table, per direction.
pub const MAX_NAT_FLOWS: u32 = 1 << 18;
/// Number of those whose client has not continued after an answer, over all CPUs; newer ones evict
/// older ones.
pub const MAX_UNASSURED_FLOWS: u32 = 56 * 1024;
/// Number of `nat` source addresses of one family. IPv4 addresses come first in the map, then IPv6.
pub const MAX_NAT_ADDRESSES: u32 = 64;
/// Number of packets whose fragments are tracked at a time.
pub const MAX_FRAGMENTED_PACKETS: u32 = 1 << 13;
/// Number of regions: the bits of [`Service::regions`].
pub const MAX_REGIONS: u8 = 64;
/// Number of denied prefixes.
pub const MAX_DENIED_PREFIXES: u32 = 1 << 16;
/// Number of nodes from which a decap program accepts packets.
pub const MAX_DECAP_SOURCES: u32 = 1024;
/// Number of server ids in QUIC connection ids, over all services and layouts.
pub const MAX_SERVER_IDS: u32 = 1 << 15;
/// Number of connection-id ciphers, by the first three bits.
pub const MAX_CID_CIPHERS: u32 = 8;
/// Number of links with a source address for ICMP errors.
pub const MAX_ICMP_SOURCES: u32 = 1024;
/// Number of positions for the node's own MAC addresses.
pub const MAX_NODE_MACS: u32 = 1 << 12;
/// Number of positions for interfaces. Of two indexes with the same position only the first is
/// stored.
pub const MAX_INTERFACES: u32 = 1 << 8;
/// Number of MAC addresses of routers, including those that others took over from.
pub const MAX_ROUTERS: u32 = 1 << 10;
/// Number of interfaces that packets can be redirected to.
pub const MAX_EGRESS_INTERFACES: u32 = 64;

/// Name of the entry program during a takeover from another version.
pub const CUTOVER_PROGRAM: &str = "steer_cutover";
/// Value in [`maps::CUTOVER`] that sends packets to the programs of this version permanently.
pub const CUTOVER_DONE: u64 = u64::MAX;

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
    ClientNextHop: 32,
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
    LatencyBuckets: 3328,
    NatForward: 96,
    NatReverse: 112,
    NatTimeouts: 20,
    UnassuredFlow: 48,
    AdmissionDrops: 64,
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
