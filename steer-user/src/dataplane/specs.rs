//! Specifications of the maps that outlive the daemon.

use anyhow::{Result, anyhow, bail};
use aya::maps::{MapInfo, MapType};
use steer_common::{
    abi::{
        self, Address, Admission, Back, CidCipher, CidKey, ClassKey, ClassMatch, Config, DscpTable,
        Field, FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource, Interface, Layout,
        LinkKey, Measured, Member, MemberCounters, NatForward, NatReverse, Opening, Refusals,
        RouterKey, Service, Signals, Slot, SourceKey, SourceLimit, maps,
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
    array::<Service>(maps::SERVICES, 2 * (abi::SERVICES + abi::CLASSES)),
    map::<ClassKey, ClassMatch>(maps::CLASSES, MapType::LpmTrie, abi::CLASS_PREFIXES),
    array::<DscpTable>(maps::CLASS_DSCP, 2 * abi::DSCP_TABLES),
    array::<u32>(maps::DISPLACEMENTS, 2 * abi::DISPLACEMENTS),
    array::<Slot>(maps::SLOTS, abi::SLOTS),
    array::<Member>(maps::MEMBERS, abi::MEMBERS),
    array::<Address>(maps::NAT_SOURCES, 2 * abi::NAT_ADDRESSES),
    map::<FlowKey, FlowEntry>(maps::FLOWS, MapType::LruHash, abi::FLOWS),
    map::<FlowKey, FlowEntry>(maps::NEW_FLOWS, MapType::LruHash, abi::NEW_FLOWS),
    map::<FlowKey, NatForward>(maps::NAT_FORWARD, MapType::Hash, abi::NAT_FLOWS),
    map::<FlowKey, NatReverse>(maps::NAT_REVERSE, MapType::Hash, abi::NAT_FLOWS),
    map::<u32, Opening>(maps::OPENINGS, MapType::Array, abi::OPENINGS),
    map::<u32, Measured>(maps::MEASURED, MapType::PerCpuHash, abi::MEMBERS).with(NO_PREALLOC),
    array::<Signals>(maps::SIGNALS, abi::MEMBERS),
    map::<FragmentKey, FragmentEntry>(maps::FRAGMENTS, MapType::LruHash, abi::FRAGMENTS),
    map::<u32, u32>(
        maps::PROGRAMS,
        MapType::ProgramArray,
        abi::PROGRAMS.len() as u32,
    ),
    map::<Address, u32>(maps::DENIED, MapType::LpmTrie, abi::DENIED),
    array::<Admission>(maps::ADMISSION, abi::SERVICES),
    array::<u64>(maps::IN_FLIGHT, abi::MEMBERS),
    array::<SourceLimit>(maps::LIMITS, 2 * abi::LIMITS),
    map::<CidKey, u32>(maps::CIDS, MapType::Hash, abi::CIDS).with(NO_PREALLOC),
    array::<CidCipher>(maps::CID_CIPHERS, abi::CID_CIPHERS),
    map::<LinkKey, IcmpSource>(maps::ICMP_SOURCES, MapType::Hash, abi::ICMP_SOURCES)
        .with(NO_PREALLOC),
    map::<SourceKey, u64>(maps::SOURCES, MapType::LruHash, abi::SOURCES),
    per_cpu::<Refusals>(maps::REFUSED, abi::SERVICES),
    per_cpu::<MemberCounters>(maps::MEMBER_COUNTS, abi::MEMBERS),
    per_cpu::<u64>(maps::DROP_COUNTS, DropReason::COUNT),
    array::<u64>(maps::OWN_MACS, abi::OWN_MACS),
    array::<Interface>(maps::INTERFACES, abi::INTERFACES),
    map::<RouterKey, Back>(maps::ROUTERS, MapType::Hash, abi::ROUTERS),
    map::<u32, u64>(maps::PORTS, MapType::DevMapHash, abi::PORTS),
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
