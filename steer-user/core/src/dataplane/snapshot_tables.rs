//! The tables of the decision in host memory: snapshots for `steer explain`, or built by tests.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
};

use steer_common::{
    abi::{
        Address, Admission, AdmissionDrops, COARSE_SHIFT, CidCipher, CidKey, ClassKey, ClassMatch,
        ClientNextHop, Config, FlowEntry, FlowKey, FragmentEntry, FragmentKey, IcmpSource,
        Interface, LatencyBuckets, LinkKey, MAX_DISPLACEMENTS, MAX_INTERFACES, MAX_SERVICE_ENTRIES,
        Member, MemberCounters, NatForward, NatReverse, RouterKey, Service, Signal, Signals, Slot,
        SourceKey, SourceLimit, Track, UnassuredFlow, bucket,
    },
    tables::{InsertResult, NextHop, Step, Tables},
    verdict::DropReason,
    wire::Packet,
};

use super::{Snapshot, classes};

/// Tables with everything that a decision changes.
#[derive(Debug)]
pub struct SnapshotTables {
    snapshot: Snapshot,
    slots: RefCell<Vec<Slot>>,
    /// The flow table.
    pub flows: RefCell<HashMap<FlowKey, FlowEntry>>,
    /// Flows of which only the SYN has been seen.
    pub new_flows: RefCell<HashMap<FlowKey, FlowEntry>>,
    /// Client side of the nat table.
    pub forward: RefCell<HashMap<FlowKey, NatForward>>,
    /// Backend side of the nat table.
    pub reverse: RefCell<HashMap<FlowKey, NatReverse>>,
    /// Number of free entries in the nat table.
    pub nat_flows: Cell<usize>,
    /// Recently created flows of the nat table, oldest first.
    pub openings: RefCell<VecDeque<UnassuredFlow>>,
    /// Latencies by member; only members with an entry are measured.
    pub measured: RefCell<HashMap<u16, LatencyBuckets>>,
    /// Signs of trouble by member.
    pub signals: RefCell<HashMap<u16, Signals>>,
    /// Decisions for first fragments.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentEntry>>,
    /// Counters by member.
    pub counters: RefCell<HashMap<u16, MemberCounters>>,
    /// Drops counted separately from the outcome.
    pub drops: RefCell<HashMap<DropReason, u64>>,
    /// Coarse clock, in the kernel's ticks.
    pub now_ms: Cell<u32>,
    /// Coarse clock, in nanoseconds.
    pub now_ns: Cell<u64>,
    /// Fine clock, in nanoseconds.
    pub now_fine: Cell<u64>,
    /// Mutable state of admission, by the numbers of services and classes.
    pub admission: RefCell<HashMap<u16, Admission>>,
    /// Time at which each source's next new flow is due.
    pub sources: RefCell<HashMap<SourceKey, u64>>,
    /// Flows in flight, by member.
    pub in_flight: RefCell<HashMap<u16, i64>>,
    /// Refused flows by the numbers of services and classes.
    pub refused: RefCell<HashMap<u16, AdmissionDrops>>,
    /// Addresses whose packets the kernel keeps.
    pub own_addresses: RefCell<HashSet<Address>>,
    /// Whether the kernel forwards packets of IPv4 and of IPv6.
    pub forwards: Cell<[bool; 2]>,
    /// Next hops of members that are not resolved.
    pub routes: HashMap<Address, NextHop>,
    steps: RefCell<Vec<Step>>,
    seen: Cell<Option<FlowKey>>,
    /// The packet that one program leaves to another.
    kept: Cell<Option<Packet>>,
    /// Failed look-ups, if recorded.
    missed: RefCell<Option<Vec<TableMiss>>>,
}

/// A look-up in a flow table that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableMiss {
    /// A flow of the flow table.
    Flow(FlowKey),
    /// A flow of which only the SYN has been seen.
    NewFlow(FlowKey),
    /// A client's flow in the nat table.
    Forward(FlowKey),
    /// A backend's flow in the nat table.
    Reverse(FlowKey),
    /// Decision for a first fragment.
    Fragment(FragmentKey),
    /// Time at which a source's next new flow is due.
    Source(SourceKey),
    /// Returns the flows in flight of a member.
    InFlight(u16),
}

impl SnapshotTables {
    /// Creates tables from a snapshot, without flows.
    pub fn new(mut snapshot: Snapshot) -> Self {
        let slots = std::mem::take(&mut snapshot.slots);
        let admission = std::mem::take(&mut snapshot.admission);
        Self {
            snapshot,
            slots: RefCell::new(slots),
            flows: RefCell::default(),
            new_flows: RefCell::default(),
            forward: RefCell::default(),
            reverse: RefCell::default(),
            nat_flows: Cell::new(usize::MAX),
            openings: RefCell::default(),
            measured: RefCell::default(),
            signals: RefCell::default(),
            fragments: RefCell::default(),
            counters: RefCell::default(),
            drops: RefCell::default(),
            now_ms: Cell::new(0),
            now_ns: Cell::new(0),
            now_fine: Cell::new(0),
            admission: RefCell::new((0..).zip(admission).collect()),
            sources: RefCell::default(),
            in_flight: RefCell::default(),
            refused: RefCell::default(),
            own_addresses: RefCell::default(),
            forwards: Cell::new([true; 2]),
            routes: HashMap::new(),
            steps: RefCell::default(),
            seen: Cell::default(),
            kept: Cell::default(),
            missed: RefCell::default(),
        }
    }

    /// Returns the part that the daemon writes: settings, services, members.
    pub fn snapshot_mut(&mut self) -> &mut Snapshot {
        &mut self.snapshot
    }

    /// Returns the part that the daemon writes: settings, services, members.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Writes a slot, and creates it if necessary.
    pub fn overwrite_slot(&self, index: u32, slot: Slot) {
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= index as usize {
            slots.resize(index as usize + 1, Slot::default());
        }
        slots[index as usize] = slot;
    }

    /// Writes a slot like the daemon does.
    pub fn set_slot(&self, index: u32, slot: Slot) {
        self.change_slot(index, |old| *old = slot);
    }

    /// Returns the steps of the decisions so far.
    pub fn steps(&self) -> Vec<Step> {
        self.steps.borrow().clone()
    }

    /// Returns the flow that was looked up last.
    pub fn traced_flow(&self) -> Option<FlowKey> {
        self.seen.get()
    }

    /// Starts to record failed look-ups.
    pub fn record_misses(&self) {
        self.missed.replace(Some(Vec::new()));
    }

    /// Returns the failed look-ups since then.
    pub fn misses(&self) -> Vec<TableMiss> {
        self.missed.borrow().clone().unwrap_or_default()
    }

    fn miss<R>(&self, found: Option<R>, what: impl FnOnce() -> TableMiss) -> Option<R> {
        if found.is_none()
            && let Some(missed) = self.missed.borrow_mut().as_mut()
        {
            missed.push(what());
        }
        found
    }

    /// Clears the recorded steps.
    pub fn clear_steps(&self) {
        self.steps.borrow_mut().clear();
    }

    /// Returns the current value of a slot.
    pub fn current_slot(&self, index: u32) -> Option<Slot> {
        self.slots.borrow().get(index as usize).copied()
    }

    fn change_slot(&self, index: u32, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(index as usize) {
            change(slot);
        }
    }

    fn count(&self, id: u16, change: impl FnOnce(&mut MemberCounters)) {
        change(self.counters.borrow_mut().entry(id).or_default());
    }

    /// Returns an index within the active bank; the other one is empty here.
    fn in_bank(&self, index: u32, size: u32) -> Option<usize> {
        let active = self.snapshot.config.active & 1;
        index.checked_sub(active * size).map(|index| index as usize)
    }
}

fn with<K: Eq + Hash, V, R>(
    map: &RefCell<HashMap<K, V>>,
    key: &K,
    f: impl FnOnce(&mut V) -> R,
) -> Option<R> {
    map.borrow_mut().get_mut(key).map(f)
}

impl Tables for SnapshotTables {
    fn now_ticks(&self) -> u32 {
        self.now_ms.get()
    }

    fn coarse_tick(&self) -> u16 {
        (self.now_ms.get() >> COARSE_SHIFT) as u16
    }

    fn store_packet(&self, packet: &Packet) {
        self.kept.set(Some(*packet));
    }

    fn stored_packet(&self) -> Packet {
        self.kept
            .get()
            .expect("a program kept a packet before it left it to another one")
    }

    fn config(&self) -> Option<&Config> {
        Some(&self.snapshot.config)
    }

    fn displacement(&self, index: u32) -> Option<u32> {
        let index = self.in_bank(index, MAX_DISPLACEMENTS)?;
        self.snapshot.displacements.get(index).copied()
    }

    fn service(&self, index: u32) -> Option<&Service> {
        let index = self.in_bank(index, MAX_SERVICE_ENTRIES)?;
        self.snapshot.services.get(index)
    }

    fn class(&self, key: &ClassKey) -> Option<ClassMatch> {
        classes::search(&self.snapshot.classes, key)
    }

    fn class_by_dscp(&self, table: u16, dscp: u8) -> Option<u16> {
        let table = self.snapshot.dscp_tables.get(usize::from(table))?;
        table.0.get(usize::from(dscp)).copied()
    }

    fn policy(&self, index: u16) -> Option<&Service> {
        self.snapshot.policies.get(usize::from(index))
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.current_slot(index)
    }

    fn mark_seen(&self, index: u32) {
        self.change_slot(index, |slot| slot.seen = 1);
    }

    fn mark_track(&self, index: u32) {
        self.change_slot(index, |slot| slot.track = Track::Some as u8);
    }

    fn member(&self, id: u16) -> Option<&Member> {
        self.snapshot.members.get(usize::from(id))
    }

    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowEntry) -> R) -> Option<R> {
        self.miss(with(&self.flows, key, f), || TableMiss::Flow(*key))
    }

    fn insert_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        self.flows.borrow_mut().insert(*key, *entry);
        true
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        let found = self.new_flows.borrow().get(key).copied();
        self.miss(found, || TableMiss::NewFlow(*key))
    }

    fn insert_new_flow(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        self.new_flows.borrow_mut().insert(*key, *entry);
        true
    }

    fn remove_new_flow(&self, key: &FlowKey) {
        self.new_flows.borrow_mut().remove(key);
    }

    fn nat_source(&self, index: u32) -> Option<Address> {
        self.snapshot.nat_sources.get(index as usize).copied()
    }

    fn with_forward<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatForward) -> R) -> Option<R> {
        self.miss(with(&self.forward, key, f), || TableMiss::Forward(*key))
    }

    fn with_reverse<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatReverse) -> R) -> Option<R> {
        self.miss(with(&self.reverse, key, f), || TableMiss::Reverse(*key))
    }

    fn set_forward(&self, key: &FlowKey, entry: &NatForward) -> bool {
        if self.forward.borrow().len() >= self.nat_flows.get() {
            return false;
        }
        self.forward.borrow_mut().insert(*key, *entry);
        true
    }

    fn remove_forward(&self, key: &FlowKey) {
        self.forward.borrow_mut().remove(key);
    }

    fn add_reverse(&self, key: &FlowKey, entry: &NatReverse) -> InsertResult {
        let mut reverse = self.reverse.borrow_mut();
        if reverse.contains_key(key) {
            return InsertResult::Exists;
        }
        if reverse.len() >= self.nat_flows.get() {
            return InsertResult::Full;
        }
        self.miss(None::<()>, || TableMiss::Reverse(*key));
        reverse.insert(*key, *entry);
        InsertResult::Inserted
    }

    fn remove_reverse(&self, key: &FlowKey) {
        self.reverse.borrow_mut().remove(key);
    }

    fn with_unassured(&self, len: u32, f: impl FnOnce(&mut UnassuredFlow)) {
        let mut openings = self.openings.borrow_mut();
        let full = openings.len() >= len as usize;
        let mut place = openings.pop_front_if(|_| full).unwrap_or_default();
        if len > 0 {
            f(&mut place);
            openings.push_back(place);
        }
    }

    fn with_nat_scratch<R>(
        &self,
        f: impl FnOnce(&mut NatForward, &mut NatReverse) -> R,
    ) -> Option<R> {
        Some(f(&mut NatForward::default(), &mut NatReverse::default()))
    }

    fn now_precise_ns(&self) -> u64 {
        self.now_fine.get()
    }

    fn record_latency(&self, id: u16, measure: u8, ns: u64) {
        if let Some(measured) = self.measured.borrow_mut().get_mut(&id) {
            measured.0[usize::from(measure)][bucket(ns) as usize] += 1;
        }
    }

    fn count_signal(&self, id: u16, signal: Signal) {
        let mut signals = self.signals.borrow_mut();
        let signals = signals.entry(id).or_default();
        *match signal {
            Signal::Reset => &mut signals.resets,
            Signal::Refused => &mut signals.refused,
            Signal::Unanswered => &mut signals.unanswered,
            Signal::Accepted => &mut signals.accepted,
            Signal::EndedEarly => &mut signals.ended_early,
        } += 1;
    }

    fn cid_member(&self, key: &CidKey) -> Option<u16> {
        self.snapshot.cids.get(key).copied()
    }

    fn cid_cipher(&self, rotation: u8) -> Option<&CidCipher> {
        self.snapshot.cid_ciphers.get(usize::from(rotation))
    }

    fn is_denied(&self, client: &Address) -> bool {
        let bits = |address: &Address| address.to_ipv6().to_bits();
        let denied = &self.snapshot.denied;
        denied.iter().any(|(prefix, len)| {
            let differ = bits(prefix) ^ bits(client);
            differ.leading_zeros() >= *len
        })
    }

    fn now_coarse_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn with_admission<R>(&self, policy: u16, f: impl FnOnce(&mut Admission) -> R) -> Option<R> {
        Some(f(self.admission.borrow_mut().entry(policy).or_default()))
    }

    fn source_limit(&self, index: u16) -> Option<&SourceLimit> {
        self.snapshot.limits.get(usize::from(index))
    }

    fn with_source<R>(&self, key: &SourceKey, f: impl FnOnce(&mut u64) -> R) -> Option<R> {
        self.miss(with(&self.sources, key, f), || TableMiss::Source(*key))
    }

    fn set_source(&self, key: &SourceKey, due: u64) {
        self.sources.borrow_mut().insert(*key, due);
    }

    fn in_flight(&self, id: u16) -> i64 {
        let found = self.in_flight.borrow().get(&id).copied();
        self.miss(found, || TableMiss::InFlight(id)).unwrap_or(0)
    }

    fn add_in_flight(&self, id: u16, by: i64) {
        *self.in_flight.borrow_mut().entry(id).or_default() += by;
    }

    fn count_refusal(&self, policy: u16, reason: DropReason) {
        let mut refused = self.refused.borrow_mut();
        refused.entry(policy).or_default().count(reason);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        let found = self.fragments.borrow().get(key).copied();
        self.miss(found, || TableMiss::Fragment(*key))
    }

    fn set_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool {
        self.fragments.borrow_mut().insert(*key, *entry);
        true
    }

    fn may_send_icmp(&self) -> bool {
        true
    }

    fn icmp_source(&self, link: &LinkKey) -> Option<IcmpSource> {
        self.snapshot.icmp_sources.get(link).copied()
    }

    fn fib_lookup(&self, _packet: &Packet, member: &Member) -> Option<NextHop> {
        self.routes.get(&member.address).copied()
    }

    fn node_mac(&self, place: u32) -> Option<u64> {
        self.snapshot.node_macs.get(place as usize).copied()
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        let place = (index % MAX_INTERFACES) as usize;
        let known = self.snapshot.interfaces.get(place);
        known.filter(|known| known.index == index)
    }

    fn router(&self, key: &RouterKey) -> Option<ClientNextHop> {
        self.snapshot.routers.get(key).copied()
    }

    fn is_local(&self, address: Address, family: u8, _interface: u32) -> bool {
        let [v4, v6] = self.forwards.get();
        let forwards = if family == 4 { v4 } else { v6 };
        !forwards || self.own_addresses.borrow().contains(&address)
    }

    fn count_member(&self, id: u16, bytes: u64, begins: u8) {
        self.count(id, |counters| counters.count(bytes, begins));
    }

    fn count_reply(&self, id: u16, content: u64) {
        self.count(id, |counters| counters.count_reply(content));
    }

    fn count_drop(&self, reason: DropReason) {
        *self.drops.borrow_mut().entry(reason).or_default() += 1;
    }

    fn trace_flow(&self, key: &FlowKey) {
        self.seen.set(Some(*key));
    }

    fn trace_step(&self, step: Step) {
        self.steps.borrow_mut().push(step);
    }
}
