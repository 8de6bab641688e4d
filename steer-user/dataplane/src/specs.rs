//! Specifications of the maps that outlive the daemon.

use anyhow::{Result, anyhow, bail};
use aya::maps::{MapInfo, MapType};
use steer_common::{
    abi::{
        self, Address, Admission, AdmissionDrops, CidCipher, CidKey, ClassKey, ClassMatch,
        ClientNextHop, Config, DscpTable, Field, FlowEntry, FlowKey, FragmentEntry, FragmentKey,
        IcmpSource, Interface, LatencyBuckets, Layout, LinkKey, Member, MemberCounters, NatForward,
        NatReverse, RouterKey, Service, Signals, Slot, SourceKey, SourceLimit, UnassuredFlow, maps,
    },
    verdict::DropReason,
};

/// `BPF_F_MMAPABLE`.
pub(super) const MAPPED: u32 = 1 << 10;
/// `BPF_F_NO_PREALLOC`, which tries require; entries take memory only while they exist.
pub(super) const NO_PREALLOC: u32 = 1;
/// `BPF_F_RDONLY_PROG`, which the kernel sets on every devmap.
const READ_ONLY: u32 = 1 << 7;

/// Specification of a map.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kind: MapType,
    pub(super) key: u32,
    pub(super) value: u32,
    /// Default number of entries, unless [`Sizes`](super::Sizes) overrides it.
    pub(super) entries: u32,
    pub(super) flags: u32,
    /// Fields of the key, after the prefix length of a trie.
    pub(super) key_fields: &'static [Field],
    /// Fields of the value.
    pub(super) value_fields: &'static [Field],
}

const fn map<K: Layout, V: Layout>(name: &'static str, kind: MapType, entries: u32) -> Spec {
    let (prefix, flags) = match kind {
        MapType::LpmTrie => (4, NO_PREALLOC),
        MapType::DevMapHash => (0, READ_ONLY),
        _ => (0, 0),
    };
    Spec {
        name,
        kind,
        key: prefix + size_of::<K>() as u32,
        value: size_of::<V>() as u32,
        entries,
        flags,
        key_fields: K::FIELDS,
        value_fields: V::FIELDS,
    }
}

const fn array<V: Layout>(name: &'static str, entries: u32) -> Spec {
    map::<u32, V>(name, MapType::Array, entries).with(MAPPED)
}

const fn per_cpu<V: Layout>(name: &'static str, entries: u32) -> Spec {
    map::<u32, V>(name, MapType::PerCpuArray, entries)
}

/// The maps that outlive the daemon.
pub(super) const SPECS: [Spec; 32] = [
    array::<Config>(maps::CONFIG, 1),
    array::<Service>(
        maps::SERVICES,
        2 * (abi::MAX_SERVICE_ENTRIES + abi::MAX_CLASS_POLICIES),
    ),
    map::<ClassKey, ClassMatch>(maps::CLASSES, MapType::LpmTrie, abi::MAX_CLASS_PREFIXES),
    array::<DscpTable>(maps::CLASS_DSCP, 2 * abi::MAX_DSCP_TABLES),
    array::<u32>(maps::DISPLACEMENTS, 2 * abi::MAX_DISPLACEMENTS),
    array::<Slot>(maps::SLOTS, abi::MAX_SLOTS),
    array::<Member>(maps::MEMBERS, abi::MAX_MEMBERS),
    array::<Address>(maps::NAT_SOURCES, 2 * abi::MAX_NAT_ADDRESSES),
    map::<FlowKey, FlowEntry>(maps::FLOWS, MapType::LruHash, abi::MAX_FLOWS),
    map::<FlowKey, FlowEntry>(maps::NEW_FLOWS, MapType::LruHash, abi::MAX_NEW_FLOWS),
    map::<FlowKey, NatForward>(maps::NAT_FORWARD, MapType::Hash, abi::MAX_NAT_FLOWS),
    map::<FlowKey, NatReverse>(maps::NAT_REVERSE, MapType::Hash, abi::MAX_NAT_FLOWS),
    map::<u32, UnassuredFlow>(
        maps::UNASSURED_FLOWS,
        MapType::Array,
        abi::MAX_UNASSURED_FLOWS,
    ),
    map::<u32, LatencyBuckets>(maps::MEMBER_LATENCY, MapType::PerCpuHash, abi::MAX_MEMBERS)
        .with(NO_PREALLOC),
    array::<Signals>(maps::MEMBER_SIGNALS, abi::MAX_MEMBERS),
    map::<FragmentKey, FragmentEntry>(
        maps::FRAGMENTS,
        MapType::LruHash,
        abi::MAX_FRAGMENTED_PACKETS,
    ),
    map::<u32, u32>(
        maps::PROGRAMS,
        MapType::ProgramArray,
        abi::PROGRAMS.len() as u32,
    ),
    map::<Address, u32>(maps::DENIED, MapType::LpmTrie, abi::MAX_DENIED_PREFIXES),
    array::<Admission>(maps::ADMISSION, abi::MAX_SERVICE_ENTRIES),
    array::<u64>(maps::IN_FLIGHT, abi::MAX_MEMBERS),
    array::<SourceLimit>(maps::SOURCE_LIMITS, 2 * abi::MAX_SOURCE_LIMITS),
    map::<CidKey, u32>(maps::QUIC_SERVER_IDS, MapType::Hash, abi::MAX_SERVER_IDS).with(NO_PREALLOC),
    array::<CidCipher>(maps::CID_CIPHERS, abi::MAX_CID_CIPHERS),
    map::<LinkKey, IcmpSource>(maps::ICMP_SOURCES, MapType::Hash, abi::MAX_ICMP_SOURCES)
        .with(NO_PREALLOC),
    map::<SourceKey, u64>(
        maps::LIMITED_SOURCES,
        MapType::LruHash,
        abi::MAX_LIMITED_SOURCES,
    ),
    per_cpu::<AdmissionDrops>(maps::ADMISSION_DROPS, abi::MAX_SERVICE_ENTRIES),
    per_cpu::<MemberCounters>(maps::MEMBER_COUNTS, abi::MAX_MEMBERS),
    per_cpu::<u64>(maps::DROP_COUNTS, DropReason::COUNT),
    array::<u64>(maps::NODE_MACS, abi::MAX_NODE_MACS),
    array::<Interface>(maps::INTERFACES, abi::MAX_INTERFACES),
    map::<RouterKey, ClientNextHop>(maps::ROUTERS, MapType::Hash, abi::MAX_ROUTERS),
    map::<u32, u64>(
        maps::EGRESS_INTERFACES,
        MapType::DevMapHash,
        abi::MAX_EGRESS_INTERFACES,
    ),
];

impl Spec {
    const fn with(mut self, flags: u32) -> Self {
        self.flags = flags;
        self
    }

    /// Compares a map with its specification, except for the number of entries, which is an
    /// argument.
    ///
    /// # Errors
    ///
    /// Returns an error if it has another type or shape.
    pub(super) fn check(&self, info: &MapInfo, entries: u32) -> Result<()> {
        let found = (
            info.map_type().map_err(|error| anyhow!(error))?,
            info.key_size(),
            info.value_size(),
            info.max_entries(),
            info.map_flags(),
        );
        let wanted = (self.kind, self.key, self.value, entries, self.flags);
        if found != wanted {
            let name = self.name;
            bail!(
                "map {name} is {} and must be {}",
                shape(found),
                shape(wanted)
            );
        }
        Ok(())
    }
}

/// Returns type, sizes and flags of a map in words.
fn shape((kind, key, value, entries, flags): (MapType, u32, u32, u32, u32)) -> String {
    format!(
        "a {kind:?} with keys of {key} bytes, values of {value} bytes, {entries} entries and flags \
         {flags:#x}"
    )
}
