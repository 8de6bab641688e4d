//! Every map of the program.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuHashMap, ProgramArray},
};
use steer_common::{
    abi::{
        self, Address, Admission, AdmissionDrops, CidCipher, CidKey, ClassKey, ClassMatch,
        ClientNextHop, Config, DscpTable, FlowEntry, FlowKey, FragmentEntry, FragmentKey,
        IcmpSource, Interface, LatencyBuckets, LinkKey, Member, MemberCounters, NatForward,
        NatReverse, RouterKey, Service, Signals, SourceKey, SourceLimit, UnassuredFlow,
    },
    frame::MAX_LAUNDERED_BYTES,
    verdict::DropReason,
    wire::Packet,
};

use crate::per_cpu::PerCpu;

/// `BPF_F_MMAPABLE`: the daemon maps the array into its memory (Linux 5.5).
const MAPPED: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, MAPPED);

#[map]
pub(crate) static SERVICES: Array<Service> = Array::with_max_entries(
    2 * (abi::MAX_SERVICE_ENTRIES + abi::MAX_CLASS_POLICIES),
    MAPPED,
);

#[map]
pub(crate) static CLASSES: LpmTrie<ClassKey, ClassMatch> =
    LpmTrie::with_max_entries(abi::MAX_CLASS_PREFIXES, 0);

#[map]
pub(crate) static CLASS_DSCP: Array<DscpTable> =
    Array::with_max_entries(2 * abi::MAX_DSCP_TABLES, MAPPED);

#[map]
pub(crate) static DISPLACEMENTS: Array<u32> =
    Array::with_max_entries(2 * abi::MAX_DISPLACEMENTS, MAPPED);

/// [`Slot`](steer_common::abi::Slot)s as words.
#[map]
pub(crate) static SLOTS: Array<u64> = Array::with_max_entries(abi::MAX_SLOTS, MAPPED);

#[map]
pub(crate) static MEMBERS: Array<Member> = Array::with_max_entries(abi::MAX_MEMBERS, MAPPED);

#[map]
pub(crate) static NAT_SOURCES: Array<Address> =
    Array::with_max_entries(2 * abi::MAX_NAT_ADDRESSES, MAPPED);

#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(abi::MAX_FLOWS, 0);

#[map]
pub(crate) static NEW_FLOWS: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(abi::MAX_NEW_FLOWS, 0);

#[map]
pub(crate) static NAT_FORWARD: HashMap<FlowKey, NatForward> =
    HashMap::with_max_entries(abi::MAX_NAT_FLOWS, 0);

#[map]
pub(crate) static NAT_REVERSE: HashMap<FlowKey, NatReverse> =
    HashMap::with_max_entries(abi::MAX_NAT_FLOWS, 0);

#[map]
pub(crate) static UNASSURED_FLOWS: Array<UnassuredFlow> =
    Array::with_max_entries(abi::MAX_UNASSURED_FLOWS, 0);

/// Next position of each CPU's ring of unassured flows.
#[map]
pub(crate) static NEXT_UNASSURED: PerCpu<u32> = PerCpu::with_max_entries(1, 0);

/// Scratch space for two entries that would not fit on the stack.
#[map]
pub(crate) static NAT_SCRATCH: PerCpu<(NatForward, NatReverse)> = PerCpu::with_max_entries(1, 0);

/// Latency histograms, which take memory only for measured members.
#[map]
pub(crate) static MEMBER_LATENCY: PerCpuHashMap<u32, LatencyBuckets> =
    PerCpuHashMap::with_max_entries(abi::MAX_MEMBERS, NO_PREALLOC);

#[map]
pub(crate) static MEMBER_SIGNALS: Array<Signals> =
    Array::with_max_entries(abi::MAX_MEMBERS, MAPPED);

#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry> =
    LruHashMap::with_max_entries(abi::MAX_FRAGMENTED_PACKETS, 0);

#[map]
pub(crate) static PROGRAMS: ProgramArray =
    ProgramArray::with_max_entries(abi::PROGRAMS.len() as u32, 0);

/// Argument of the next program.
#[map]
pub(crate) static TAIL_CALL_ARGUMENT: PerCpu<u32> = PerCpu::with_max_entries(1, 0);

/// The parsed packet for the next program.
#[map]
pub(crate) static PACKET: PerCpu<MaybeUninit<Packet>> = PerCpu::with_max_entries(1, 0);

/// Recently sent ICMP errors: start of the period, and number.
#[map]
pub(crate) static ICMP_BUDGET: PerCpu<[u32; 2]> = PerCpu::with_max_entries(1, 0);

#[map]
pub(crate) static DENIED: LpmTrie<Address, u32> =
    LpmTrie::with_max_entries(abi::MAX_DENIED_PREFIXES, 0);

#[map]
pub(crate) static ADMISSION: Array<Admission> =
    Array::with_max_entries(abi::MAX_SERVICE_ENTRIES, MAPPED);

#[map]
pub(crate) static IN_FLIGHT: Array<u64> = Array::with_max_entries(abi::MAX_MEMBERS, MAPPED);

#[map]
pub(crate) static SOURCE_LIMITS: Array<SourceLimit> =
    Array::with_max_entries(2 * abi::MAX_SOURCE_LIMITS, MAPPED);

#[map]
pub(crate) static LIMITED_SOURCES: LruHashMap<SourceKey, u64> =
    LruHashMap::with_max_entries(abi::MAX_LIMITED_SOURCES, 0);

#[map]
pub(crate) static ADMISSION_DROPS: PerCpu<AdmissionDrops> =
    PerCpu::with_max_entries(abi::MAX_SERVICE_ENTRIES, 0);

#[map]
pub(crate) static QUIC_SERVER_IDS: HashMap<CidKey, u32> =
    HashMap::with_max_entries(abi::MAX_SERVER_IDS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static CID_CIPHERS: Array<CidCipher> =
    Array::with_max_entries(abi::MAX_CID_CIPHERS, MAPPED);

#[map]
pub(crate) static ICMP_SOURCES: HashMap<LinkKey, IcmpSource> =
    HashMap::with_max_entries(abi::MAX_ICMP_SOURCES, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static MEMBER_COUNTS: PerCpu<MemberCounters> =
    PerCpu::with_max_entries(abi::MAX_MEMBERS, 0);

#[map]
pub(crate) static DROP_COUNTS: PerCpu<u64> = PerCpu::with_max_entries(DropReason::COUNT, 0);

/// Scratch space in which the verifier loses track of values.
#[map]
pub(crate) static SCRATCH: PerCpu<[u64; MAX_LAUNDERED_BYTES / 8]> = PerCpu::with_max_entries(1, 0);

/// MAC addresses of the node.
#[map]
pub(crate) static NODE_MACS: Array<u64> = Array::with_max_entries(abi::MAX_NODE_MACS, MAPPED);

#[map]
pub(crate) static INTERFACES: Array<Interface> =
    Array::with_max_entries(abi::MAX_INTERFACES, MAPPED);

#[map]
pub(crate) static ROUTERS: HashMap<RouterKey, ClientNextHop> =
    HashMap::with_max_entries(abi::MAX_ROUTERS, 0);

#[map]
pub(crate) static EGRESS_INTERFACES: DevMapHash =
    DevMapHash::with_max_entries(abi::MAX_EGRESS_INTERFACES, 0);

/// Previous programs during a takeover, in their own array.
#[cfg(not(feature = "trace"))]
#[map]
pub(crate) static OLD_PROGRAMS: ProgramArray =
    ProgramArray::with_max_entries(abi::PROGRAMS.len() as u32, 0);

/// Word that decides where packets go during a takeover.
#[cfg(not(feature = "trace"))]
#[map]
pub(crate) static CUTOVER: Array<u64> = Array::with_max_entries(1, MAPPED);
