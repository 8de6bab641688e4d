//! [`Dataplane`] over the kernel's maps.

use std::{
    collections::{BTreeMap, HashMap as Mirror, HashSet},
    net::IpAddr,
    ops::Range,
    sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{
        DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues,
        lpm_trie::{Key, LpmTrie},
    },
    util::nr_cpus,
};
use steer_common::{
    abi::{
        self, Address, Admission, AdmissionDrops, CidCipher, CidKey, ClassKey, ClassMatch,
        ClientNextHop, Config, DscpTable, FlowEntry, FlowKey, FragmentEntry, FragmentKey,
        IcmpSource, Interface, LatencyBuckets, LinkKey, MAX_CID_CIPHERS, Mac, Member,
        MemberCounters, MemberState, NatForward, NatReverse, RouterKey, Service, Signals, Slot,
        SourceKey, SourceLimit, maps, member_flags,
    },
    verdict::DropReason,
};
use steer_core::dataplane::{
    CidKeyFile, Class, Counters, Dataplane, GcLimits, GcReport, Snapshot, classes,
};

use super::{
    OwnMacs,
    gc::{FlowMaps, RunningGc},
    mapped::Mapped,
    perfect_hash, prefix, retry,
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

impl Dataplane for KernelMaps {
    fn config(&self) -> Config {
        self.config.get(0)
    }

    fn set_config(&mut self, config: &Config) {
        let now = self.config.get(0);
        self.config.set(
            0,
            Config {
                active: now.active,
                banks: now.banks,
                mac_seed: now.mac_seed,
                routers_epoch: now.routers_epoch,
                min_mtu: now.min_mtu,
                ..*config
            },
        );
    }

    fn set_nat_sources(&mut self, sources: &[IpAddr]) -> Result<()> {
        for (family, first) in [(false, 0), (true, abi::MAX_NAT_ADDRESSES)] {
            let of_family = || sources.iter().filter(|address| address.is_ipv6() == family);
            if of_family().count() > abi::MAX_NAT_ADDRESSES as usize {
                bail!(
                    "{} source addresses of one family for nat; at most {} can be used",
                    of_family().count(),
                    abi::MAX_NAT_ADDRESSES
                );
            }
            for (index, address) in (first..).zip(of_family()) {
                self.nat_sources.set(index, (*address).into());
            }
        }
        Ok(())
    }

    fn set_denied(&mut self, denied: &[(IpAddr, u8)]) -> Result<()> {
        let wanted: Vec<_> = denied.iter().map(|p| prefix::key(*p)).collect();
        for (key, (address, len)) in wanted.iter().zip(denied) {
            retry::update(|| self.denied.insert(key, 1, 0))
                .with_context(|| format!("{address}/{len}: cannot be denied"))?;
        }
        let is_wanted = |key: &Key<Address>| {
            let mut same = wanted.iter().filter(|w| w.prefix_len() == key.prefix_len());
            same.any(|wanted| wanted.data() == key.data())
        };
        let gone: Vec<_> = self.denied.keys().flatten().collect();
        for key in gone.into_iter().filter(|key| !is_wanted(key)) {
            self.denied.remove(&key)?;
        }
        Ok(())
    }

    fn cids(&self) -> BTreeMap<CidKey, u16> {
        let entries = self.cids.iter().flatten();
        entries.map(|(key, member)| (key, member as u16)).collect()
    }

    fn set_cids(&mut self, cids: &BTreeMap<CidKey, u16>) -> Result<()> {
        let present = self.cids();
        for (key, member) in cids {
            if present.get(key) != Some(member) {
                retry::update(|| self.cids.insert(key, u32::from(*member), 0))
                    .with_context(|| format!("server id {:#x}: cannot be added", key.server_id))?;
            }
        }
        for key in present.keys().filter(|key| !cids.contains_key(key)) {
            self.cids.remove(key)?;
        }
        Ok(())
    }

    fn set_cid_keys(&mut self, keys: &[CidKeyFile]) -> Result<()> {
        let read: Result<Vec<_>, _> = keys.iter().map(CidKeyFile::cipher).collect();
        let mut ciphers = [CidCipher::default(); MAX_CID_CIPHERS as usize];
        for (key, cipher) in keys.iter().zip(read?) {
            ciphers[usize::from(key.rotation) % ciphers.len()] = cipher;
        }
        self.set_cid_ciphers(&ciphers);
        Ok(())
    }

    fn services(&self) -> Vec<Service> {
        let config = self.config.get(0);
        let active = config.active & 1;
        let first = active * abi::MAX_SERVICE_ENTRIES;
        let mask = config.banks[active as usize].service_mask;
        (first..=first + mask)
            .map(|index| self.services.get(index))
            .filter(|service| service.key.family != 0)
            .collect()
    }

    fn policies(&self) -> Vec<Service> {
        policies_of(self.config.get(0).active & 1)
            .map(|index| self.services.get(index))
            .filter(|policy| policy.key.family != 0)
            .collect()
    }

    fn in_flight(&self, id: u16) -> i64 {
        self.in_flight_word(id)
            .load(Ordering::Relaxed)
            .cast_signed()
    }

    fn add_in_flight(&mut self, id: u16, by: i64) {
        self.in_flight_word(id)
            .fetch_add(by.cast_unsigned(), Ordering::SeqCst);
    }

    fn clear_policy(&mut self, id: u16) -> Result<()> {
        self.admission.set(u32::from(id), Admission::default());
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        let zero = vec![AdmissionDrops::default(); cpus];
        self.refused.set(u32::from(id), zero.try_into()?, 0)?;
        Ok(())
    }

    fn set_pressure(&mut self, id: u16, pressure: u32) {
        let admission = self.admission.at(u32::from(id)).as_ptr();
        // SAFETY: a field of a valid element.
        let word = unsafe { AtomicU32::from_ptr(&raw mut (*admission).pressure) };
        word.store(pressure, Ordering::SeqCst);
    }

    fn set_nat_idle(&mut self, id: u16, ticks: u32) {
        let admission = self.admission.at(u32::from(id)).as_ptr();
        // SAFETY: a field of a valid element.
        let word = unsafe { AtomicU32::from_ptr(&raw mut (*admission).nat_idle_ticks) };
        word.store(ticks, Ordering::SeqCst);
    }

    fn set_node_macs(&mut self, macs: Option<&[Mac]>) -> Result<()> {
        let table = macs.map(OwnMacs::new).transpose();
        let wanted = table.as_ref().ok().and_then(Option::as_ref);
        let is_there = wanted.is_some_and(|table| {
            let places = (0..).zip(&table.places);
            self.mac_seed().load(Ordering::SeqCst) == table.seed
                && places
                    .into_iter()
                    .all(|(place, mac)| self.own_macs.get(place) == *mac)
        });
        if is_there {
            return Ok(());
        }
        // While the table changes, frames for any address are accepted.
        let before = self.mac_seed().swap(0, Ordering::SeqCst);
        if let Some(table) = table? {
            // A packet may still use the previous seed.
            if before != 0 {
                thread::sleep(GRACE);
            }
            for (place, mac) in (0..).zip(&table.places) {
                self.own_macs.set(place, *mac);
            }
            fence(Ordering::SeqCst);
            self.mac_seed().store(table.seed, Ordering::SeqCst);
        }
        Ok(())
    }

    fn set_interfaces(&mut self, interfaces: &[Interface]) {
        let mut places = vec![Interface::default(); abi::MAX_INTERFACES as usize];
        for interface in interfaces {
            let place = &mut places[(interface.index % abi::MAX_INTERFACES) as usize];
            if place.index == 0 {
                *place = *interface;
            }
        }
        let known = interfaces.iter().filter(|interface| interface.mtu != 0);
        let least = known.map(|interface| interface.mtu).min().unwrap_or(0);
        let least = u16::try_from(least).unwrap_or(u16::MAX);
        self.min_mtu().store(least, Ordering::SeqCst);
        for (place, interface) in (0..).zip(places) {
            if self.interfaces.get(place) != interface {
                self.interfaces.set(place, interface);
            }
        }
    }

    fn routers(&self) -> BTreeMap<RouterKey, ClientNextHop> {
        self.routers.iter().flatten().collect()
    }

    fn set_routers(&mut self, routers: &BTreeMap<RouterKey, ClientNextHop>) -> Result<()> {
        let present = self.routers();
        let is_gone = |key: &&RouterKey| !routers.contains_key(key);
        for key in present.keys().filter(is_gone) {
            self.routers.remove(key)?;
        }
        for (key, way) in routers {
            if present.get(key) != Some(way) {
                retry::update(|| self.routers.insert(key, way, 0))
                    .context("the path to a router cannot be written")?;
            }
        }
        if present != *routers {
            self.routers_epoch().fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn publish_with(
        &mut self,
        services: &[Service],
        classes: &[Class],
        limits: &[SourceLimit],
    ) -> Result<()> {
        let idle = (self.active().load(Ordering::Relaxed) & 1) ^ 1;
        let mut services = services.to_vec();
        let built = classes::build(idle, &mut services, classes, limits)?;
        let table = perfect_hash::build(&services)?;
        // A packet may still use the bank that was active before the last change.
        if let Some(since) = self.published {
            thread::sleep(GRACE.saturating_sub(since.elapsed()));
        }
        self.write_classes(idle, &built)?;
        for (index, value) in (idle * abi::MAX_DISPLACEMENTS..).zip(&table.displacements) {
            self.displacements.set(index, *value);
        }
        for (index, value) in (idle * abi::MAX_SERVICE_ENTRIES..).zip(&table.services) {
            self.services.set(index, *value);
        }
        let mut config = self.config.get(0);
        config.banks[idle as usize] = table.bank;
        self.config.set(0, config);
        fence(Ordering::SeqCst);
        self.active().store(idle, Ordering::SeqCst);
        self.published = Some(Instant::now());
        Ok(())
    }

    fn member(&self, id: u16) -> Member {
        self.members.get(u32::from(id))
    }

    fn set_member(&mut self, id: u16, member: &Member) {
        self.flags(id)
            .fetch_and(!member_flags::RESOLVED, Ordering::SeqCst);
        let without = Member {
            flags: member.flags & !member_flags::RESOLVED,
            state: self.state(id).load(Ordering::Relaxed),
            ..*member
        };
        self.members.set(u32::from(id), without);
        fence(Ordering::SeqCst);
        self.flags(id).store(member.flags, Ordering::SeqCst);
        self.state(id).store(member.state, Ordering::SeqCst);
    }

    fn set_member_hot(&mut self, id: u16, hot: bool) {
        let flags = self.flags(id);
        if hot {
            flags.fetch_or(member_flags::HOT, Ordering::Relaxed);
        } else {
            flags.fetch_and(!member_flags::HOT, Ordering::Relaxed);
        }
    }

    fn set_member_state(&mut self, id: u16, state: MemberState) {
        self.state(id).store(state as u8, Ordering::SeqCst);
    }

    fn slots(&self, range: Range<u32>) -> Vec<Slot> {
        range.map(|index| self.slot(index)).collect()
    }

    fn slot(&self, index: u32) -> Slot {
        Slot::from_bits(self.word(index).load(Ordering::Relaxed))
    }

    fn write_slots(&mut self, start: u32, slots: &[Slot]) {
        for (index, slot) in (start..).zip(slots) {
            self.word(index).store(slot.to_bits(), Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    fn swap_slot(&mut self, index: u32, old: Slot, new: Slot) -> Result<(), Slot> {
        self.word(index)
            .compare_exchange(
                old.to_bits(),
                new.to_bits(),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .map(|_| ())
            .map_err(Slot::from_bits)
    }

    fn counters(&self) -> Result<Counters> {
        let is_there = |id: &u32| self.members.get(*id).state != MemberState::Absent as u8;
        let end = (0..self.members.len()).rev().find(is_there);
        let end = end.map_or(0, |last| last as u16 + 1);
        let mut counters = Counters {
            members: self.traffic.read_by(end, &mut Vec::new())?,
            ..Counters::default()
        };
        for (id, counter) in (0..).zip(&mut counters.members) {
            if !is_there(&id) {
                *counter = MemberCounters::default();
            }
        }
        let all = self.members.len() as usize;
        counters.members.resize_with(all, MemberCounters::default);
        for reason in 0..DropReason::COUNT {
            counters
                .drops
                .push(self.drop_counts.get(&reason, 0)?.iter().sum());
        }
        let mut present = self.services();
        present.extend(self.policies());
        let numbered = present
            .iter()
            .filter(|policy| u32::from(policy.id) < abi::MAX_SERVICE_ENTRIES);
        for policy in numbered {
            let mut sum = AdmissionDrops::default();
            for cpu in self.refused.get(&u32::from(policy.id), 0)?.iter() {
                sum.add(cpu);
            }
            counters.admission_drops.insert(policy.id, sum);
        }
        Ok(counters)
    }

    fn traffic(&mut self, end: u16) -> Result<Vec<MemberCounters>> {
        self.traffic.read(end)
    }

    fn start_gc(&mut self, limits: GcLimits) -> Result<()> {
        if self.sweeping.is_none() {
            self.sweeping = Some(self.tables.try_clone()?.start(limits)?);
        }
        Ok(())
    }

    fn take_gc_report(&mut self) -> Option<Result<GcReport>> {
        let result = self.sweeping.as_ref()?.result()?;
        self.sweeping = None;
        Some(result)
    }

    fn set_latency_members(&mut self, members: &[u16]) -> Result<()> {
        let present: HashSet<u32> = self.measured.keys().flatten().collect();
        let wanted: HashSet<u32> = members.iter().map(|id| u32::from(*id)).collect();
        for id in present.difference(&wanted) {
            self.measured.remove(id)?;
        }
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        for id in wanted.difference(&present) {
            let zeros = vec![LatencyBuckets::default(); cpus];
            let zeros = || PerCpuValues::try_from(zeros.clone());
            retry::update(|| self.measured.insert(id, zeros()?, 0))
                .with_context(|| format!("member {id}: cannot be measured"))?;
        }
        Ok(())
    }

    fn latency(&self, id: u16) -> Result<Option<LatencyBuckets>> {
        match self.measured.get(&u32::from(id), 0) {
            Ok(values) => {
                let mut sum = LatencyBuckets::default();
                for cpu in values.iter() {
                    sum.add(cpu);
                }
                Ok(Some(sum))
            }
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn for_each_latency(&self, show: &mut dyn FnMut(u16, &LatencyBuckets)) -> Result<()> {
        self.tables.for_each_latency(show)
    }

    fn signals(&self, id: u16) -> Signals {
        self.signals.get(u32::from(id))
    }

    fn add_egress_interface(&mut self, interface: u32) -> Result<()> {
        self.ports
            .insert(interface, interface, None, 0)
            .with_context(|| format!("interface {interface}: cannot be redirected to"))
    }

    fn snapshot(&self) -> Snapshot {
        let config = self.config.get(0);
        let active = config.active & 1;
        let bank = config.banks[active as usize];
        let displacements = active * abi::MAX_DISPLACEMENTS;
        let services = active * abi::MAX_SERVICE_ENTRIES;
        Snapshot {
            config,
            displacements: (displacements..=displacements + bank.displacement_mask)
                .map(|index| self.displacements.get(index))
                .collect(),
            services: (services..=services + bank.service_mask)
                .map(|index| self.services.get(index))
                .collect(),
            policies: [0, 1]
                .into_iter()
                .flat_map(policies_of)
                .map(|index| self.services.get(index))
                .collect(),
            classes: self.prefixes.clone(),
            dscp_tables: (0..self.dscp_tables.len())
                .map(|index| self.dscp_tables.get(index))
                .collect(),
            limits: (0..self.limits.len())
                .map(|index| self.limits.get(index))
                .collect(),
            admission: (0..self.admission.len())
                .map(|index| self.admission.get(index))
                .collect(),
            members: (0..self.members.len())
                .map(|index| self.members.get(index))
                .collect(),
            slots: self.slots(0..self.slots.len()),
            nat_sources: (0..self.nat_sources.len())
                .map(|index| self.nat_sources.get(index))
                .collect(),
            denied: self
                .denied
                .keys()
                .flatten()
                .map(|key| (key.data(), key.prefix_len()))
                .collect(),
            cids: self.cids(),
            cid_ciphers: self.cid_ciphers(),
            icmp_sources: self.icmp_sources.iter().flatten().collect(),
            node_macs: (0..self.own_macs.len())
                .map(|place| self.own_macs.get(place))
                .collect(),
            interfaces: (0..self.interfaces.len())
                .map(|place| self.interfaces.get(place))
                .collect(),
            routers: self.routers(),
        }
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        let known = self.flows.get(key, 0).ok();
        known.or_else(|| self.new_flows.get(key, 0).ok())
    }

    fn nat_forward(&self, key: &FlowKey) -> Option<NatForward> {
        self.nat_forward.get(key, 0).ok()
    }

    fn nat_reverse(&self, key: &FlowKey) -> Option<NatReverse> {
        self.nat_reverse.get(key, 0).ok()
    }

    fn open_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.flows.get(key, 0).ok()
    }

    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.new_flows.get(key, 0).ok()
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        self.fragments.get(key, 0).ok()
    }

    fn source(&self, key: &SourceKey) -> Option<u64> {
        self.sources.get(key, 0).ok()
    }
}
