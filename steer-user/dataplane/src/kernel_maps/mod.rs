//! The traits of the data path over the kernel's maps.

mod flow_tables;
mod steering_tables;
mod traffic_counters;

use std::{
    collections::HashMap as Mirror,
    ops::Range,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{
        DevMapHash, HashMap, Map, MapData, PerCpuArray, PerCpuHashMap,
        lpm_trie::{Key, LpmTrie},
    },
};
use steer_common::abi::{
    self, Address, Admission, AdmissionDrops, CidCipher, CidKey, ClassKey, ClassMatch,
    ClientNextHop, Config, DscpTable, FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource,
    Interface, LatencyBuckets, LinkKey, MAX_CID_CIPHERS, Member, NatForward, NatReverse, RouterKey,
    Service, Signals, SourceKey, SourceLimit, maps,
};
use steer_core::dataplane::classes;

use super::{
    gc::{FlowMaps, RunningGc},
    mapped::Mapped,
    retry,
    traffic::Traffic,
};

/// Upper bound of the time for which a packet uses a replaced bank of services.
const GRACE: Duration = Duration::from_millis(10);

/// Maps of the program.
pub struct KernelMaps {
    config: Mapped<Config>,
    services: Mapped<Service>,
    displacements: Mapped<u32>,
    classes: LpmTrie<MapData, ClassKey, ClassMatch>,
    /// Contents of `classes`.
    prefixes: Mirror<(ClassKey, u32), ClassMatch>,
    dscp_tables: Mapped<DscpTable>,
    limits: Mapped<SourceLimit>,
    in_flight: Mapped<u64>,
    admission: Mapped<Admission>,
    refused: PerCpuArray<MapData, AdmissionDrops>,
    slots: Mapped<u64>,
    members: Mapped<Member>,
    nat_sources: Mapped<Address>,
    flows: HashMap<MapData, FlowKey, FlowEntry>,
    new_flows: HashMap<MapData, FlowKey, FlowEntry>,
    nat_forward: HashMap<MapData, FlowKey, NatForward>,
    nat_reverse: HashMap<MapData, FlowKey, NatReverse>,
    fragments: HashMap<MapData, FragmentKey, FragmentEntry>,
    sources: HashMap<MapData, SourceKey, u64>,
    /// Counters of members, for frequent reads.
    traffic: Traffic,
    drop_counts: PerCpuArray<MapData, u64>,
    denied: LpmTrie<MapData, Address, u32>,
    cids: HashMap<MapData, CidKey, u32>,
    cid_ciphers: Mapped<CidCipher>,
    measured: PerCpuHashMap<MapData, u32, LatencyBuckets>,
    signals: Mapped<Signals>,
    icmp_sources: HashMap<MapData, LinkKey, IcmpSource>,
    ports: DevMapHash<MapData>,
    own_macs: Mapped<u64>,
    interfaces: Mapped<Interface>,
    routers: HashMap<MapData, RouterKey, ClientNextHop>,
    published: Option<Instant>,
    /// Flow tables, for garbage collection.
    tables: FlowMaps,
    sweeping: Option<RunningGc>,
}

impl KernelMaps {
    /// Replaces the ciphers of connection ids, indexed by their first three bits.
    pub fn set_cid_ciphers(&mut self, ciphers: &[CidCipher; MAX_CID_CIPHERS as usize]) {
        for (rotation, cipher) in (0..).zip(ciphers) {
            if self.cid_ciphers.get(rotation) != *cipher {
                self.cid_ciphers.set(rotation, *cipher);
            }
        }
    }

    fn cid_ciphers(&self) -> [CidCipher; MAX_CID_CIPHERS as usize] {
        std::array::from_fn(|rotation| self.cid_ciphers.get(rotation as u32))
    }

    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let flows = take_map(ebpf, maps::FLOWS)?;
        let new_flows = take_map(ebpf, maps::NEW_FLOWS)?;
        let forward = take_map(ebpf, maps::NAT_FORWARD)?;
        let reverse = take_map(ebpf, maps::NAT_REVERSE)?;
        let measured = take_map(ebpf, maps::MEMBER_LATENCY)?;
        let member_counts = take_map(ebpf, maps::MEMBER_COUNTS)?;
        let classes: LpmTrie<_, ClassKey, ClassMatch> =
            take_map(ebpf, maps::CLASSES)?.try_into()?;
        let prefixes = classes
            .iter()
            .map(|entry| entry.map(|(key, found)| (prefix_of(&key), found)))
            .collect::<Result<_, _>>()
            .context("the classes cannot be read")?;
        Ok(Self {
            classes,
            prefixes,
            dscp_tables: mapped(ebpf, maps::CLASS_DSCP)?,
            limits: mapped(ebpf, maps::SOURCE_LIMITS)?,
            in_flight: mapped(ebpf, maps::IN_FLIGHT)?,
            admission: mapped(ebpf, maps::ADMISSION)?,
            refused: take_map(ebpf, maps::ADMISSION_DROPS)?.try_into()?,
            tables: FlowMaps::new([&flows, &new_flows, &forward, &reverse, &measured])?,
            measured: measured.try_into()?,
            signals: mapped(ebpf, maps::MEMBER_SIGNALS)?,
            new_flows: new_flows.try_into()?,
            config: mapped(ebpf, maps::CONFIG)?,
            services: mapped(ebpf, maps::SERVICES)?,
            displacements: mapped(ebpf, maps::DISPLACEMENTS)?,
            slots: mapped(ebpf, maps::SLOTS)?,
            members: mapped(ebpf, maps::MEMBERS)?,
            nat_sources: mapped(ebpf, maps::NAT_SOURCES)?,
            flows: flows.try_into()?,
            nat_forward: forward.try_into()?,
            nat_reverse: reverse.try_into()?,
            fragments: take_map(ebpf, maps::FRAGMENTS)?.try_into()?,
            sources: take_map(ebpf, maps::LIMITED_SOURCES)?.try_into()?,
            traffic: Traffic::new(&member_counts)?,
            drop_counts: take_map(ebpf, maps::DROP_COUNTS)?.try_into()?,
            denied: take_map(ebpf, maps::DENIED)?.try_into()?,
            cids: take_map(ebpf, maps::QUIC_SERVER_IDS)?.try_into()?,
            cid_ciphers: mapped(ebpf, maps::CID_CIPHERS)?,
            icmp_sources: take_map(ebpf, maps::ICMP_SOURCES)?.try_into()?,
            ports: take_map(ebpf, maps::EGRESS_INTERFACES)?.try_into()?,
            own_macs: mapped(ebpf, maps::NODE_MACS)?,
            interfaces: mapped(ebpf, maps::INTERFACES)?,
            routers: take_map(ebpf, maps::ROUTERS)?.try_into()?,
            published: None,
            sweeping: None,
        })
    }

    /// Forgets what is known of maps that were emptied.
    pub(super) fn forget_copies(&mut self) {
        self.prefixes.clear();
        self.published = None;
        self.sweeping = None;
    }

    /// Remembers a flow as the program would, for measurements and tests.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses the entry.
    pub fn add_flow(&mut self, key: &FlowKey, entry: &FlowEntry) -> Result<()> {
        Ok(self.flows.insert(key, entry, 0)?)
    }

    /// Creates a nat flow like the program does, for measurements and tests.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses an entry.
    pub fn add_nat_flow(
        &mut self,
        forward_key: &FlowKey,
        forward: &NatForward,
        reverse_key: &FlowKey,
        reverse: &NatReverse,
    ) -> Result<()> {
        self.nat_forward.insert(forward_key, forward, 0)?;
        self.nat_reverse.insert(reverse_key, reverse, 0)?;
        Ok(())
    }

    /// Returns the number of flows in the flow table, and of those of which only the SYN has been
    /// seen; for tests.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub fn flow_counts(&self) -> Result<[usize; 2]> {
        self.tables.count()
    }

    /// Sets the time at which the next new flow of a service or class is due, in nanoseconds of the
    /// kernel's clock; for tests.
    pub fn set_due(&mut self, id: u16, due: u64) {
        let admission = self.admission.get(u32::from(id));
        self.admission
            .set(u32::from(id), Admission { due, ..admission });
    }

    /// Writes an arbitrary entry into the trie of classes; for tests.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses it.
    pub fn set_class(&mut self, place: (ClassKey, u32), found: ClassMatch) -> Result<()> {
        self.classes.insert(&trie_key(place), found, 0)?;
        self.prefixes.insert(place, found);
        Ok(())
    }

    /// Returns the number of client entries and of backend entries in the nat table; for tests.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub fn nat_entries(&self) -> Result<[usize; 2]> {
        self.tables.count_nat()
    }

    /// Removes entries of a nat flow; for tests.
    pub fn evict(&mut self, forward: Option<&FlowKey>, reverse: Option<&FlowKey>) {
        // A missing entry is no error.
        if let Some(key) = forward {
            let _ = self.nat_forward.remove(key);
        }
        if let Some(key) = reverse {
            let _ = self.nat_reverse.remove(key);
        }
    }

    /// Replaces the source addresses of ICMP errors by incoming link. Unchanged entries stay in
    /// place throughout.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses an entry.
    pub fn set_icmp_sources(&mut self, sources: &Mirror<LinkKey, IcmpSource>) -> Result<()> {
        let links: Vec<LinkKey> = self.icmp_sources.keys().flatten().collect();
        for gone in links.iter().filter(|link| !sources.contains_key(*link)) {
            self.icmp_sources.remove(gone)?;
        }
        for (link, source) in sources {
            if self.icmp_sources.get(link, 0).ok() != Some(*source) {
                self.icmp_sources.insert(link, source, 0).with_context(|| {
                    format!("interface {}: no address for ICMP errors", link.interface)
                })?;
            }
        }
        Ok(())
    }

    /// Returns the word of a slot, shared by kernel and daemon.
    fn word(&self, index: u32) -> &AtomicU64 {
        // SAFETY: a valid element, aligned to its size, and only accessed atomically.
        unsafe { AtomicU64::from_ptr(self.slots.at(index).as_ptr()) }
    }

    fn state(&self, id: u16) -> &AtomicU8 {
        let member = self.members.at(u32::from(id)).as_ptr();
        // SAFETY: a field of a valid element.
        unsafe { AtomicU8::from_ptr(&raw mut (*member).state) }
    }

    fn in_flight_word(&self, id: u16) -> &AtomicU64 {
        // SAFETY: a valid element, aligned to its size, and only accessed atomically.
        unsafe { AtomicU64::from_ptr(self.in_flight.at(u32::from(id)).as_ptr()) }
    }

    fn flags(&self, id: u16) -> &AtomicU8 {
        let member = self.members.at(u32::from(id)).as_ptr();
        // SAFETY: a field of a valid element.
        unsafe { AtomicU8::from_ptr(&raw mut (*member).flags) }
    }

    /// Writes classes into a bank that no packet uses.
    fn write_classes(&mut self, bank: u32, built: &classes::Bank) -> Result<()> {
        let gone = |(key, len): &&(ClassKey, u32)| {
            classes::is_of_bank(key, bank) && !built.prefixes.contains_key(&(*key, *len))
        };
        let gone: Vec<_> = self.prefixes.keys().filter(gone).copied().collect();
        for place in gone {
            self.classes.remove(&trie_key(place))?;
            self.prefixes.remove(&place);
        }
        for (place, found) in &built.prefixes {
            if self.prefixes.get(place) != Some(found) {
                let key = trie_key(*place);
                retry::update(|| self.classes.insert(&key, found, 0))
                    .context("a prefix of a class cannot be written")?;
                self.prefixes.insert(*place, *found);
            }
        }
        for (index, table) in (bank * abi::MAX_DSCP_TABLES..).zip(&built.tables) {
            self.dscp_tables.set(index, *table);
        }
        for (index, limit) in (bank * abi::MAX_SOURCE_LIMITS..).zip(&built.limits) {
            self.limits.set(index, *limit);
        }
        let policies = policies_of(bank);
        for (index, policy) in policies.clone().zip(&built.policies) {
            self.services.set(index, *policy);
        }
        for index in policies.skip(built.policies.len()) {
            self.services.set(index, Service::default());
        }
        Ok(())
    }

    fn mac_seed(&self) -> &AtomicU64 {
        let config = self.config.at(0).as_ptr();
        // SAFETY: a field of a valid element.
        unsafe { AtomicU64::from_ptr(&raw mut (*config).mac_seed) }
    }

    fn min_mtu(&self) -> &AtomicU16 {
        let config = self.config.at(0).as_ptr();
        // SAFETY: a field of a valid element.
        unsafe { AtomicU16::from_ptr(&raw mut (*config).min_mtu) }
    }

    fn routers_epoch(&self) -> &AtomicU16 {
        let config = self.config.at(0).as_ptr();
        // SAFETY: a field of a valid element.
        unsafe { AtomicU16::from_ptr(&raw mut (*config).routers_epoch) }
    }

    fn active(&self) -> &AtomicU32 {
        let config = self.config.at(0).as_ptr();
        // SAFETY: a field of a valid element.
        unsafe { AtomicU32::from_ptr(&raw mut (*config).active) }
    }
}

/// Returns the range of class policies of a bank.
fn policies_of(bank: u32) -> Range<u32> {
    let start = 2 * abi::MAX_SERVICE_ENTRIES + bank * abi::MAX_CLASS_POLICIES;
    start..start + abi::MAX_CLASS_POLICIES
}

fn trie_key((key, len): (ClassKey, u32)) -> Key<ClassKey> {
    Key::new(ClassKey::SCOPE_BITS + len, key)
}

fn prefix_of(key: &Key<ClassKey>) -> (ClassKey, u32) {
    let len = key.prefix_len().saturating_sub(ClassKey::SCOPE_BITS);
    (key.data(), len)
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object has no map {name}"))
}

fn mapped<T: aya::Pod>(ebpf: &mut Ebpf, name: &str) -> Result<Mapped<T>> {
    use std::os::fd::AsFd as _;
    let Map::Array(data) = take_map(ebpf, name)? else {
        bail!("map {name} is not an array");
    };
    let info = data.info()?;
    if info.value_size() as usize != size_of::<T>() {
        bail!("map {name} has values of {} bytes", info.value_size());
    }
    Mapped::new(data.fd().as_fd(), info.max_entries())
}
