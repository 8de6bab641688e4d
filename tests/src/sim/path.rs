//! A data path in memory, shared by daemon and packets.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Result, ensure};
use steer_common::abi::{
    CidKey, Config, FlowEntry, FlowKey, LatencyBuckets, Member, MemberCounters, MemberState,
    NatForward, NatReverse, Service, Signals, Slot, SourceLimit,
};
use steer_core::dataplane::{
    CidKeyFile, Class, Counters, FakeDataplane, FlowTables, GcLimits, GcReport, Snapshot,
    SnapshotTables, SteeringTables, TrafficCounters,
};
use steer_dataplane::build_perfect_hash;

/// A data path in which the daemon's writes reach the packets' tables at once, as in mapped arrays.
#[derive(Clone)]
pub(super) struct Path {
    /// State that packets do not use.
    memory: FakeDataplane,
    tables: Arc<Mutex<SnapshotTables>>,
}

impl Path {
    pub(super) fn new() -> Self {
        let memory = FakeDataplane::new();
        let tables = SnapshotTables::new(memory.snapshot());
        Self {
            memory,
            tables: Arc::new(Mutex::new(tables)),
        }
    }

    /// Returns the tables that packets use.
    pub(super) fn tables(&self) -> MutexGuard<'_, SnapshotTables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SteeringTables for Path {
    fn config(&self) -> Config {
        self.memory.config()
    }

    fn set_config(&mut self, config: &Config) {
        self.memory.set_config(config);
        let mut tables = self.tables();
        let now = &mut tables.snapshot_mut().config;
        let (active, banks) = (now.active, now.banks);
        *now = Config {
            active,
            banks,
            ..*config
        };
    }

    fn set_nat_sources(&mut self, sources: &[IpAddr]) -> Result<()> {
        self.memory.set_nat_sources(sources)
    }

    fn set_denied(&mut self, denied: &[(IpAddr, u8)]) -> Result<()> {
        self.memory.set_denied(denied)
    }

    fn cids(&self) -> BTreeMap<CidKey, u16> {
        self.memory.cids()
    }

    fn set_cids(&mut self, cids: &BTreeMap<CidKey, u16>) -> Result<()> {
        self.memory.set_cids(cids)
    }

    fn set_cid_keys(&mut self, keys: &[CidKeyFile]) -> Result<()> {
        self.memory.set_cid_keys(keys)
    }

    fn services(&self) -> Vec<Service> {
        self.memory.services()
    }

    fn policies(&self) -> Vec<Service> {
        self.memory.policies()
    }

    fn clear_policy(&mut self, id: u16) -> Result<()> {
        self.memory.clear_policy(id)
    }

    fn set_pressure(&mut self, id: u16, pressure: u32) {
        self.memory.set_pressure(id, pressure);
        let tables = self.tables();
        let mut admission = tables.admission.borrow_mut();
        admission.entry(id).or_default().pressure = pressure;
    }

    fn publish_with(
        &mut self,
        services: &[Service],
        classes: &[Class],
        limits: &[SourceLimit],
    ) -> Result<()> {
        ensure!(classes.is_empty(), "simulated services have no classes");
        ensure!(limits.is_empty(), "nor limits of sources");
        self.memory.publish(services)?;
        let hash = build_perfect_hash(services)?;
        let mut tables = self.tables();
        let snapshot = tables.snapshot_mut();
        snapshot.config.active = 0;
        snapshot.config.banks[0] = hash.bank;
        snapshot.displacements = hash.displacements;
        snapshot.services = hash.services;
        Ok(())
    }

    fn member(&self, id: u16) -> Member {
        self.memory.member(id)
    }

    fn set_member(&mut self, id: u16, member: &Member) {
        self.memory.set_member(id, member);
        self.tables().snapshot_mut().members[usize::from(id)] = *member;
    }

    fn set_member_state(&mut self, id: u16, state: MemberState) {
        self.memory.set_member_state(id, state);
        self.tables().snapshot_mut().members[usize::from(id)].state = state as u8;
    }

    fn set_member_hot(&mut self, id: u16, hot: bool) {
        self.memory.set_member_hot(id, hot);
        let member = self.memory.member(id);
        self.tables().snapshot_mut().members[usize::from(id)] = member;
    }

    fn slots(&self, range: Range<u32>) -> Vec<Slot> {
        let tables = self.tables();
        range
            .map(|index| tables.current_slot(index).unwrap_or_default())
            .collect()
    }

    fn slot(&self, index: u32) -> Slot {
        self.tables().current_slot(index).unwrap_or_default()
    }

    fn write_slots(&mut self, start: u32, slots: &[Slot]) {
        let tables = self.tables();
        for (index, slot) in (start..).zip(slots) {
            tables.overwrite_slot(index, *slot);
        }
    }

    fn swap_slot(&mut self, index: u32, old: Slot, new: Slot) -> Result<(), Slot> {
        let tables = self.tables();
        match tables.current_slot(index).unwrap_or_default() {
            now if now == old => {
                tables.overwrite_slot(index, new);
                Ok(())
            }
            now => Err(now),
        }
    }

    fn add_egress_interface(&mut self, interface: u32) -> Result<()> {
        self.memory.add_egress_interface(interface)
    }

    fn snapshot(&self) -> Snapshot {
        self.memory.snapshot()
    }
}

impl TrafficCounters for Path {
    fn counters(&self) -> Result<Counters> {
        self.memory.counters()
    }

    fn traffic(&mut self, end: u16) -> Result<Vec<MemberCounters>> {
        self.memory.traffic(end)
    }

    fn set_latency_members(&mut self, members: &[u16]) -> Result<()> {
        self.memory.set_latency_members(members)
    }

    fn latency(&self, id: u16) -> Result<Option<LatencyBuckets>> {
        self.memory.latency(id)
    }

    fn for_each_latency(&self, show: &mut dyn FnMut(u16, &LatencyBuckets)) -> Result<()> {
        self.memory.for_each_latency(show)
    }

    fn signals(&self, id: u16) -> Signals {
        self.memory.signals(id)
    }
}

impl FlowTables for Path {
    fn start_gc(&mut self, limits: GcLimits) -> Result<()> {
        let tracked = {
            let tables = self.tables();
            // Flows of which only the SYN was seen count like the others.
            let new: Vec<_> = tables.new_flows.borrow_mut().drain().collect();
            let mut flows = tables.flows.borrow_mut();
            flows.extend(new);
            let now = tables.now_ms.get();
            flows.retain(|_, flow| now.saturating_sub(flow.last_ticks) < limits.flow_idle_ticks);
            flows
                .values()
                .map(|flow| (flow.slot, flow.member))
                .collect()
        };
        self.memory.tracked = tracked;
        self.memory.start_gc(limits)
    }

    fn take_gc_report(&mut self) -> Option<Result<GcReport>> {
        self.memory.take_gc_report()
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.tables().flows.borrow().get(key).copied()
    }

    fn nat_forward(&self, _key: &FlowKey) -> Option<NatForward> {
        None
    }

    fn nat_reverse(&self, _key: &FlowKey) -> Option<NatReverse> {
        None
    }
}
