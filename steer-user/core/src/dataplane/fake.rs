//! A data path in memory, without packets: for dry runs of a configuration, for replay, and for
//! tests.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    ops::Range,
};

use anyhow::{Result, ensure};
use steer_common::abi::{
    CidKey, Config, FlowEntry, FlowKey, LatencyBuckets, MAX_MEMBERS, MAX_SERVICE_ENTRIES, Member,
    MemberCounters, MemberState, NatForward, NatReverse, Service, Signals, Slot, SourceLimit,
    member_flags,
};

use super::{
    CidKeyFile, Class, Counters, Dataplane, FlowTables, GcLimits, GcReport, Snapshot,
    SteeringTables, TrafficCounters, check_classes,
};

/// State written by a daemon, without effects of packets.
#[derive(Clone, Debug)]
pub struct FakeDataplane {
    config: Config,
    services: Vec<Service>,
    /// Published classes.
    pub classes: Vec<Class>,
    /// Priorities below which new flows are shed, by the numbers of services and classes.
    pub pressures: HashMap<u16, u32>,
    members: Vec<Member>,
    /// Slots; those past the end are empty.
    slots: Vec<Slot>,
    /// Contents of the flow table: slots and members.
    pub tracked: Vec<(u32, u16)>,
    swept: Option<GcReport>,
    /// Latencies of measured members.
    pub measured: HashMap<u16, LatencyBuckets>,
    /// Signs of trouble by member.
    pub signals: HashMap<u16, Signals>,
    /// Traffic counters by member.
    pub traffic: HashMap<u16, MemberCounters>,
    /// Denied prefixes of clients.
    pub denied: Vec<(IpAddr, u8)>,
    cids: BTreeMap<CidKey, u16>,
    /// Interfaces allowed as redirect targets.
    pub ports: Vec<u32>,
}

impl Default for FakeDataplane {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeDataplane {
    /// Creates an empty data path.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: Config::default(),
            services: Vec::new(),
            classes: Vec::new(),
            pressures: HashMap::new(),
            members: vec![Member::default(); MAX_MEMBERS as usize],
            slots: Vec::new(),
            tracked: Vec::new(),
            swept: None,
            measured: HashMap::new(),
            signals: HashMap::new(),
            traffic: HashMap::new(),
            denied: Vec::new(),
            cids: BTreeMap::new(),
            ports: Vec::new(),
        }
    }

    /// Copies what a daemon wrote into another data path: services, their tables, members.
    pub fn copy_of(dataplane: &impl Dataplane) -> Self {
        let mut copy = Self::new();
        copy.config = dataplane.config();
        copy.services = dataplane.services();
        copy.cids = dataplane.cids();
        copy.members = (0..MAX_MEMBERS as u16)
            .map(|id| dataplane.member(id))
            .collect();
        // The match conditions are not needed without packets.
        let unsearched = |policy| Class {
            policy,
            sources: Vec::new(),
            dscp: Vec::new(),
        };
        copy.classes = dataplane.policies().into_iter().map(unsearched).collect();
        for service in copy.tables() {
            let start = service.slots_start;
            let slots = dataplane.slots(start..start + service.slots_len);
            copy.write_slots(start, &slots);
        }
        copy
    }

    /// Returns services and policies of classes.
    fn tables(&self) -> Vec<Service> {
        let policies = self.classes.iter().map(|class| class.policy);
        self.services.iter().copied().chain(policies).collect()
    }

    fn reserve(&mut self, end: usize) {
        if self.slots.len() < end {
            self.slots.resize(end, Slot::default());
        }
    }

    /// Returns all members with their states.
    #[must_use]
    pub fn states(&self) -> Vec<(u16, MemberState)> {
        let present = (0..).zip(&self.members);
        present
            .map(|(id, member)| (id, MemberState::from_byte(member.state)))
            .filter(|(_, state)| *state != MemberState::Absent)
            .collect()
    }

    /// Returns the members of new and of open flows, over the tables of all services.
    #[must_use]
    pub fn choices(&self) -> Vec<(u16, u16)> {
        let mut found = Vec::new();
        for service in &self.tables() {
            let range = service.slots_start..service.slots_start + service.slots_len;
            found.extend(self.slots(range).iter().map(|s| (s.first, s.owner)));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl SteeringTables for FakeDataplane {
    fn config(&self) -> Config {
        self.config
    }

    fn set_config(&mut self, config: &Config) {
        self.config = *config;
    }

    fn set_nat_sources(&mut self, _sources: &[IpAddr]) -> Result<()> {
        Ok(())
    }

    fn set_denied(&mut self, denied: &[(IpAddr, u8)]) -> Result<()> {
        self.denied = denied.to_vec();
        Ok(())
    }

    fn cids(&self) -> BTreeMap<CidKey, u16> {
        self.cids.clone()
    }

    fn set_cids(&mut self, cids: &BTreeMap<CidKey, u16>) -> Result<()> {
        self.cids = cids.clone();
        Ok(())
    }

    /// Does nothing: there are no packets with ids to decrypt.
    fn set_cid_keys(&mut self, _keys: &[CidKeyFile]) -> Result<()> {
        Ok(())
    }

    fn services(&self) -> Vec<Service> {
        self.services.clone()
    }

    fn policies(&self) -> Vec<Service> {
        self.classes.iter().map(|class| class.policy).collect()
    }

    fn clear_policy(&mut self, id: u16) -> Result<()> {
        self.pressures.remove(&id);
        Ok(())
    }

    fn set_pressure(&mut self, id: u16, pressure: u32) {
        self.pressures.insert(id, pressure);
    }

    fn publish_with(
        &mut self,
        services: &[Service],
        classes: &[Class],
        limits: &[SourceLimit],
    ) -> Result<()> {
        let most = MAX_SERVICE_ENTRIES as usize / 2;
        ensure!(services.len() <= most, "more than {most} services");
        check_classes(services, classes, limits)?;
        self.services = services.to_vec();
        self.classes = classes.to_vec();
        Ok(())
    }

    fn member(&self, id: u16) -> Member {
        self.members[usize::from(id)]
    }

    fn set_member(&mut self, id: u16, member: &Member) {
        self.members[usize::from(id)] = *member;
    }

    fn set_member_state(&mut self, id: u16, state: MemberState) {
        self.members[usize::from(id)].state = state as u8;
    }

    fn set_member_hot(&mut self, id: u16, hot: bool) {
        let flags = &mut self.members[usize::from(id)].flags;
        *flags = (*flags & !member_flags::HOT) | if hot { member_flags::HOT } else { 0 };
    }

    fn slots(&self, range: Range<u32>) -> Vec<Slot> {
        let (start, end) = (range.start as usize, range.end as usize);
        let known = self.slots.len();
        let mut slots = self.slots[start.min(known)..end.min(known)].to_vec();
        slots.resize(end - start, Slot::default());
        slots
    }

    fn slot(&self, index: u32) -> Slot {
        self.slots.get(index as usize).copied().unwrap_or_default()
    }

    fn write_slots(&mut self, start: u32, slots: &[Slot]) {
        let start = start as usize;
        self.reserve(start + slots.len());
        self.slots[start..start + slots.len()].copy_from_slice(slots);
    }

    fn swap_slot(&mut self, index: u32, old: Slot, new: Slot) -> Result<(), Slot> {
        self.reserve(index as usize + 1);
        let slot = &mut self.slots[index as usize];
        if *slot != old {
            return Err(*slot);
        }
        *slot = new;
        Ok(())
    }

    fn add_egress_interface(&mut self, interface: u32) -> Result<()> {
        self.ports.push(interface);
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: self.config,
            displacements: Vec::new(),
            services: self.services.clone(),
            policies: Vec::new(),
            classes: HashMap::new(),
            dscp_tables: Vec::new(),
            limits: Vec::new(),
            admission: Vec::new(),
            members: self.members.clone(),
            slots: self.slots.clone(),
            nat_sources: Vec::new(),
            denied: Vec::new(),
            cids: self.cids.clone(),
            cid_ciphers: Default::default(),
            icmp_sources: HashMap::new(),
            node_macs: Vec::new(),
            interfaces: Vec::new(),
            routers: BTreeMap::new(),
        }
    }
}

impl TrafficCounters for FakeDataplane {
    fn counters(&self) -> Result<Counters> {
        Ok(Counters {
            members: vec![MemberCounters::default(); self.members.len()],
            drops: Vec::new(),
            admission_drops: HashMap::new(),
        })
    }

    fn traffic(&mut self, end: u16) -> Result<Vec<MemberCounters>> {
        let of = |id| self.traffic.get(&id).copied().unwrap_or_default();
        Ok((0..end).map(of).collect())
    }

    fn set_latency_members(&mut self, members: &[u16]) -> Result<()> {
        self.measured.retain(|id, _| members.contains(id));
        for id in members {
            self.measured.entry(*id).or_default();
        }
        Ok(())
    }

    fn latency(&self, id: u16) -> Result<Option<LatencyBuckets>> {
        Ok(self.measured.get(&id).copied())
    }

    fn for_each_latency(&self, show: &mut dyn FnMut(u16, &LatencyBuckets)) -> Result<()> {
        self.measured.iter().for_each(|(id, of)| show(*id, of));
        Ok(())
    }

    fn signals(&self, id: u16) -> Signals {
        self.signals.get(&id).copied().unwrap_or_default()
    }
}

impl FlowTables for FakeDataplane {
    fn start_gc(&mut self, _limits: GcLimits) -> Result<()> {
        self.swept = Some(GcReport {
            tracked: self.tracked.clone(),
            latency: self.measured.clone(),
            ..GcReport::default()
        });
        Ok(())
    }

    fn take_gc_report(&mut self) -> Option<Result<GcReport>> {
        self.swept.take().map(Ok)
    }

    fn flow(&self, _key: &FlowKey) -> Option<FlowEntry> {
        None
    }

    fn nat_forward(&self, _key: &FlowKey) -> Option<NatForward> {
        None
    }

    fn nat_reverse(&self, _key: &FlowKey) -> Option<NatReverse> {
        None
    }
}
