//! The decision's tables in memory of the host: copies for `steer explain`, or made up for tests.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
};

use steer_common::{
    abi::{
        Address, Admission, Back, CidCipher, CidKey, ClassKey, ClassMatch, Config, DISPLACEMENTS,
        FlowEntry, FlowKey, FragmentEntry, FragmentKey, INTERFACES, IcmpSource, Interface, LinkKey,
        Measured, Member, MemberCounters, NatForward, NatReverse, Opening, Refusals, RouterKey,
        SERVICES, STAMP_SHIFT, Service, Signal, Signals, Slot, SourceKey, SourceLimit, Track,
        bucket,
    },
    tables::{Added, NextHop, Step, Tables},
    verdict::DropReason,
    wire::Packet,
};

use super::{Snapshot, classes, kept};

/// The tables, with all that a decision changes in them.
#[derive(Debug)]
pub struct HostTables {
    snapshot: Snapshot,
    slots: RefCell<Vec<Slot>>,
    /// The flow table.
    pub flows: RefCell<HashMap<FlowKey, FlowEntry>>,
    /// Flows of which only the SYN was seen.
    pub new_flows: RefCell<HashMap<FlowKey, FlowEntry>>,
    /// The nat table, from the client's side.
    pub forward: RefCell<HashMap<FlowKey, NatForward>>,
    /// The nat table, from the backend's side.
    pub reverse: RefCell<HashMap<FlowKey, NatReverse>>,
    /// Flows that the nat table has room for.
    pub nat_flows: Cell<usize>,
    /// Flows of the nat table that began of late, the oldest first.
    pub openings: RefCell<VecDeque<Opening>>,
    /// Latencies, by member; those of members that have an entry.
    pub measured: RefCell<HashMap<u16, Measured>>,
    /// Signs of trouble, by member.
    pub signals: RefCell<HashMap<u16, Signals>>,
    /// Fates of first fragments.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentEntry>>,
    /// What was counted, by member.
    pub counters: RefCell<HashMap<u16, MemberCounters>>,
    /// Drops that were counted apart from the outcome.
    pub drops: RefCell<HashMap<DropReason, u64>>,
    /// The clock, in the kernel's ticks.
    pub now_ms: Cell<u32>,
    /// The clock, in nanoseconds.
    pub now_ns: Cell<u64>,
    /// The fine clock, in nanoseconds.
    pub now_fine: Cell<u64>,
    /// What of admission changes, by the numbers of services and classes.
    pub admission: RefCell<HashMap<u16, Admission>>,
    /// When sources' next new flows are due.
    pub sources: RefCell<HashMap<SourceKey, u64>>,
    /// Flows in flight, by member.
    pub in_flight: RefCell<HashMap<u16, i64>>,
    /// What was refused, by the numbers of services and classes.
    pub refused: RefCell<HashMap<u16, Refusals>>,
    /// Addresses that the kernel keeps packets for.
    pub own_addresses: RefCell<HashSet<Address>>,
    /// Whether it forwards packets of IPv4, and of IPv6, for others.
    pub forwards: Cell<[bool; 2]>,
    /// Where packets leave whose member is not resolved.
    pub routes: HashMap<Address, NextHop>,
    steps: RefCell<Vec<Step>>,
    seen: Cell<Option<FlowKey>>,
    /// The packet that one program leaves to another.
    kept: Cell<Option<Packet>>,
    /// What was looked for in vain, if that is noted.
    missed: RefCell<Option<Vec<Missed>>>,
}

/// What was looked for in a table of flows, and is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missed {
    /// A flow of the flow table.
    Flow(FlowKey),
    /// One of which only the SYN was seen.
    NewFlow(FlowKey),
    /// A client's flow in the nat table.
    Forward(FlowKey),
    /// A backend's.
    Reverse(FlowKey),
    /// The fate of a first fragment.
    Fragment(FragmentKey),
    /// When a source's next new flow is due.
    Source(SourceKey),
    /// Flows in flight of a member.
    InFlight(u16),
}

impl HostTables {
    /// Tables that begin as the copy says, with no flow.
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

    /// What the daemon writes: settings, services, members.
    pub fn snapshot_mut(&mut self) -> &mut Snapshot {
        &mut self.snapshot
    }

    /// What the daemon wrote: settings, services, members.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Takes what this network namespace does with packets that come in by an interface and are not steered.
    pub fn use_kernel(&self, interface: u32) {
        self.own_addresses.replace(kept::own_addresses());
        self.forwards
            .set([4, 6].map(|family| kept::forwards(interface, family)));
    }

    /// Writes a slot that may not be there yet.
    pub fn put_slot(&self, index: u32, slot: Slot) {
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= index as usize {
            slots.resize(index as usize + 1, Slot::default());
        }
        slots[index as usize] = slot;
    }

    /// Writes a slot, as the daemon would.
    pub fn set_slot(&self, index: u32, slot: Slot) {
        self.change_slot(index, |old| *old = slot);
    }

    /// The steps of the decisions so far.
    pub fn steps(&self) -> Vec<Step> {
        self.steps.borrow().clone()
    }

    /// The flow that was looked at last.
    pub fn seen(&self) -> Option<FlowKey> {
        self.seen.get()
    }

    /// Begins to note what is looked for in vain.
    pub fn note_misses(&self) {
        self.missed.replace(Some(Vec::new()));
    }

    /// What was looked for in vain since then.
    pub fn misses(&self) -> Vec<Missed> {
        self.missed.borrow().clone().unwrap_or_default()
    }

    fn miss<R>(&self, found: Option<R>, what: impl FnOnce() -> Missed) -> Option<R> {
        if found.is_none()
            && let Some(missed) = self.missed.borrow_mut().as_mut()
        {
            missed.push(what());
        }
        found
    }

    /// Forgets the steps of the decisions so far.
    pub fn forget_steps(&self) {
        self.steps.borrow_mut().clear();
    }

    /// A slot as it is now.
    pub fn slot_now(&self, index: u32) -> Option<Slot> {
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

    /// An index within the active bank; the other one is empty here.
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

impl Tables for HostTables {
    fn now_ms(&self) -> u32 {
        self.now_ms.get()
    }

    fn stamp(&self) -> u16 {
        (self.now_ms.get() >> STAMP_SHIFT) as u16
    }

    fn keep_packet(&self, packet: &Packet) {
        self.kept.set(Some(*packet));
    }

    fn kept_packet(&self) -> Packet {
        self.kept
            .get()
            .expect("a program kept a packet before it left it to another one")
    }

    fn config(&self) -> Option<&Config> {
        Some(&self.snapshot.config)
    }

    fn displacement(&self, index: u32) -> Option<u32> {
        let index = self.in_bank(index, DISPLACEMENTS)?;
        self.snapshot.displacements.get(index).copied()
    }

    fn service(&self, index: u32) -> Option<&Service> {
        let index = self.in_bank(index, SERVICES)?;
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
        self.slot_now(index)
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
        self.miss(with(&self.flows, key, f), || Missed::Flow(*key))
    }

    fn remember(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        self.flows.borrow_mut().insert(*key, *entry);
        true
    }

    fn forget(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn new_flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        let found = self.new_flows.borrow().get(key).copied();
        self.miss(found, || Missed::NewFlow(*key))
    }

    fn remember_new(&self, key: &FlowKey, entry: &FlowEntry) -> bool {
        self.new_flows.borrow_mut().insert(*key, *entry);
        true
    }

    fn forget_new(&self, key: &FlowKey) {
        self.new_flows.borrow_mut().remove(key);
    }

    fn nat_source(&self, index: u32) -> Option<Address> {
        self.snapshot.nat_sources.get(index as usize).copied()
    }

    fn with_forward<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatForward) -> R) -> Option<R> {
        self.miss(with(&self.forward, key, f), || Missed::Forward(*key))
    }

    fn with_reverse<R>(&self, key: &FlowKey, f: impl FnOnce(&mut NatReverse) -> R) -> Option<R> {
        self.miss(with(&self.reverse, key, f), || Missed::Reverse(*key))
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

    fn add_reverse(&self, key: &FlowKey, entry: &NatReverse) -> Added {
        let mut reverse = self.reverse.borrow_mut();
        if reverse.contains_key(key) {
            return Added::Taken;
        }
        if reverse.len() >= self.nat_flows.get() {
            return Added::Full;
        }
        self.miss(None::<()>, || Missed::Reverse(*key));
        reverse.insert(*key, *entry);
        Added::Yes
    }

    fn remove_reverse(&self, key: &FlowKey) {
        self.reverse.borrow_mut().remove(key);
    }

    fn with_opening(&self, len: u32, f: impl FnOnce(&mut Opening)) {
        let mut openings = self.openings.borrow_mut();
        let full = openings.len() >= len as usize;
        let mut place = openings.pop_front_if(|_| full).unwrap_or_default();
        if len > 0 {
            f(&mut place);
            openings.push_back(place);
        }
    }

    fn with_draft<R>(&self, f: impl FnOnce(&mut NatForward, &mut NatReverse) -> R) -> Option<R> {
        Some(f(&mut NatForward::default(), &mut NatReverse::default()))
    }

    fn now_fine(&self) -> u64 {
        self.now_fine.get()
    }

    fn measure(&self, id: u16, measure: u8, ns: u64) {
        if let Some(measured) = self.measured.borrow_mut().get_mut(&id) {
            measured.0[usize::from(measure)][bucket(ns) as usize] += 1;
        }
    }

    fn signal(&self, id: u16, signal: Signal) {
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

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn with_admission<R>(&self, policy: u16, f: impl FnOnce(&mut Admission) -> R) -> Option<R> {
        Some(f(self.admission.borrow_mut().entry(policy).or_default()))
    }

    fn source_limit(&self, index: u16) -> Option<&SourceLimit> {
        self.snapshot.limits.get(usize::from(index))
    }

    fn with_source<R>(&self, key: &SourceKey, f: impl FnOnce(&mut u64) -> R) -> Option<R> {
        self.miss(with(&self.sources, key, f), || Missed::Source(*key))
    }

    fn set_source(&self, key: &SourceKey, due: u64) {
        self.sources.borrow_mut().insert(*key, due);
    }

    fn in_flight(&self, id: u16) -> i64 {
        let found = self.in_flight.borrow().get(&id).copied();
        self.miss(found, || Missed::InFlight(id)).unwrap_or(0)
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
        self.miss(found, || Missed::Fragment(*key))
    }

    fn set_fragment(&self, key: &FragmentKey, entry: &FragmentEntry) -> bool {
        self.fragments.borrow_mut().insert(*key, *entry);
        true
    }

    fn may_answer(&self) -> bool {
        true
    }

    fn icmp_source(&self, link: &LinkKey) -> Option<IcmpSource> {
        self.snapshot.icmp_sources.get(link).copied()
    }

    fn route(&self, _packet: &Packet, member: &Member) -> Option<NextHop> {
        self.routes.get(&member.address).copied()
    }

    fn own_mac(&self, place: u32) -> Option<u64> {
        self.snapshot.own_macs.get(place as usize).copied()
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        let place = (index % INTERFACES) as usize;
        let known = self.snapshot.interfaces.get(place);
        known.filter(|known| known.index == index)
    }

    fn router(&self, key: &RouterKey) -> Option<Back> {
        self.snapshot.routers.get(key).copied()
    }

    fn keeps(&self, address: Address, family: u8, _interface: u32) -> bool {
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

    fn see(&self, key: &FlowKey) {
        self.seen.set(Some(*key));
    }

    fn note(&self, step: Step) {
        self.steps.borrow_mut().push(step);
    }
}
