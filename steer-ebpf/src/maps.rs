//! Every map of the program.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{
        Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray,
    },
};
use steer_common::{
    abi::{
        self, Address, Admission, Back, CidCipher, CidKey, ClassKey, ClassMatch, Config, DscpTable,
        FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource, Interface, LinkKey, Measured,
        Member, MemberCounters, NatForward, NatReverse, Opening, Refusals, RouterKey, Service,
        Signals, SourceKey, SourceLimit,
    },
    frame::BLURRED,
    verdict::DropReason,
    wire::Packet,
};

/// `BPF_F_MMAPABLE`: the daemon maps the array into its memory (Linux 5.5).
const MAPPED: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, MAPPED);

#[map]
pub(crate) static SERVICES: Array<Service> =
    Array::with_max_entries(2 * (abi::SERVICES + abi::CLASSES), MAPPED);

#[map]
pub(crate) static CLASSES: LpmTrie<ClassKey, ClassMatch> =
    LpmTrie::with_max_entries(abi::CLASS_PREFIXES, 0);

#[map]
pub(crate) static CLASS_DSCP: Array<DscpTable> =
    Array::with_max_entries(2 * abi::DSCP_TABLES, MAPPED);

#[map]
pub(crate) static DISPLACEMENTS: Array<u32> =
    Array::with_max_entries(2 * abi::DISPLACEMENTS, MAPPED);

/// [`Slot`](steer_common::abi::Slot)s as words.
#[map]
pub(crate) static SLOTS: Array<u64> = Array::with_max_entries(abi::SLOTS, MAPPED);

#[map]
pub(crate) static MEMBERS: Array<Member> = Array::with_max_entries(abi::MEMBERS, MAPPED);

#[map]
pub(crate) static NAT_SOURCES: Array<Address> =
    Array::with_max_entries(2 * abi::NAT_ADDRESSES, MAPPED);

#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(abi::FLOWS, 0);

#[map]
pub(crate) static NEW_FLOWS: LruHashMap<FlowKey, FlowEntry> =
    LruHashMap::with_max_entries(abi::NEW_FLOWS, 0);

#[map]
pub(crate) static NAT_FORWARD: HashMap<FlowKey, NatForward> =
    HashMap::with_max_entries(abi::NAT_FLOWS, 0);

#[map]
pub(crate) static NAT_REVERSE: HashMap<FlowKey, NatReverse> =
    HashMap::with_max_entries(abi::NAT_FLOWS, 0);

#[map]
pub(crate) static OPENINGS: Array<Opening> = Array::with_max_entries(abi::OPENINGS, 0);

/// Next position of each CPU's ring of openings.
#[map]
pub(crate) static NEXT_OPENING: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Scratch space for two entries that would not fit on the stack.
#[map]
pub(crate) static DRAFT: PerCpuArray<(NatForward, NatReverse)> =
    PerCpuArray::with_max_entries(1, 0);

/// Latency histograms, which take memory only for measured members.
#[map]
pub(crate) static MEASURED: PerCpuHashMap<u32, Measured> =
    PerCpuHashMap::with_max_entries(abi::MEMBERS, NO_PREALLOC);

#[map]
pub(crate) static SIGNALS: Array<Signals> = Array::with_max_entries(abi::MEMBERS, MAPPED);

#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry> =
    LruHashMap::with_max_entries(abi::FRAGMENTS, 0);

#[map]
pub(crate) static PROGRAMS: ProgramArray =
    ProgramArray::with_max_entries(abi::PROGRAMS.len() as u32, 0);

/// Argument of the next program.
#[map]
pub(crate) static ARGUMENT: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// The packet that it goes on with, parsed.
#[map]
pub(crate) static PACKET: PerCpuArray<MaybeUninit<Packet>> = PerCpuArray::with_max_entries(1, 0);

/// Recently sent ICMP errors: start of the period, and number.
#[map]
pub(crate) static ANSWERS: PerCpuArray<[u32; 2]> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static DENIED: LpmTrie<Address, u32> = LpmTrie::with_max_entries(abi::DENIED, 0);

#[map]
pub(crate) static ADMISSION: Array<Admission> = Array::with_max_entries(abi::SERVICES, MAPPED);

#[map]
pub(crate) static IN_FLIGHT: Array<u64> = Array::with_max_entries(abi::MEMBERS, MAPPED);

#[map]
pub(crate) static LIMITS: Array<SourceLimit> = Array::with_max_entries(2 * abi::LIMITS, MAPPED);

#[map]
pub(crate) static SOURCES: LruHashMap<SourceKey, u64> =
    LruHashMap::with_max_entries(abi::SOURCES, 0);

#[map]
pub(crate) static REFUSED: PerCpuArray<Refusals> = PerCpuArray::with_max_entries(abi::SERVICES, 0);

#[map]
pub(crate) static CIDS: HashMap<CidKey, u32> =
    HashMap::with_max_entries(abi::CIDS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static CID_CIPHERS: Array<CidCipher> = Array::with_max_entries(abi::CID_CIPHERS, MAPPED);

#[map]
pub(crate) static ICMP_SOURCES: HashMap<LinkKey, IcmpSource> =
    HashMap::with_max_entries(abi::ICMP_SOURCES, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static MEMBER_COUNTS: PerCpuArray<MemberCounters> =
    PerCpuArray::with_max_entries(abi::MEMBERS, 0);

#[map]
pub(crate) static DROP_COUNTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(DropReason::COUNT, 0);

/// Scratch space in which the verifier loses track of values.
#[map]
pub(crate) static SCRATCH: PerCpuArray<[u64; BLURRED / 8]> = PerCpuArray::with_max_entries(1, 0);

/// MAC addresses of the node.
#[map]
pub(crate) static OWN_MACS: Array<u64> = Array::with_max_entries(abi::OWN_MACS, MAPPED);

#[map]
pub(crate) static INTERFACES: Array<Interface> = Array::with_max_entries(abi::INTERFACES, MAPPED);

#[map]
pub(crate) static ROUTERS: HashMap<RouterKey, Back> = HashMap::with_max_entries(abi::ROUTERS, 0);

#[map]
pub(crate) static PORTS: DevMapHash = DevMapHash::with_max_entries(abi::PORTS, 0);

/// Previous programs during a takeover, in their own array.
#[cfg(not(feature = "trace"))]
#[map]
pub(crate) static BEFORE: ProgramArray =
    ProgramArray::with_max_entries(abi::PROGRAMS.len() as u32, 0);

/// Word that decides where packets go during a takeover.
#[cfg(not(feature = "trace"))]
#[map]
pub(crate) static GATE: Array<u64> = Array::with_max_entries(1, MAPPED);
