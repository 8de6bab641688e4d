//! A data path in memory.

use std::{net::IpAddr, ops::Range};

use anyhow::Result;
use steer_common::abi::{
    Config, FlowEntry, FlowKey, MEMBERS, Member, MemberCounters, MemberState, NatForward,
    NatReverse, Service, Slot,
};

use crate::dataplane::{Counters, Dataplane, Snapshot, Sweep, SweepLimits};

#[derive(Clone)]
pub(super) struct Fake {
    config: Config,
    services: Vec<Service>,
    members: Vec<Member>,
    slots: Vec<Slot>,
    /// What the flow table holds.
    pub(super) tracked: Vec<(u32, u16)>,
    swept: Option<Sweep>,
    pub(super) ports: Vec<u32>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self {
            config: Config::default(),
            services: Vec::new(),
            members: vec![Member::default(); MEMBERS as usize],
            slots: vec![Slot::default(); 1 << 16],
            tracked: Vec::new(),
            swept: None,
            ports: Vec::new(),
        }
    }

    /// The members that there are, with their states.
    pub(super) fn states(&self) -> Vec<(u16, MemberState)> {
        let present = (0..).zip(&self.members);
        present
            .map(|(id, member)| (id, MemberState::from_byte(member.state)))
            .filter(|(_, state)| *state != MemberState::Absent)
            .collect()
    }

    /// Who gets new flows, and who owns open ones, over the tables of all services.
    pub(super) fn choices(&self) -> Vec<(u16, u16)> {
        let mut found = Vec::new();
        for service in &self.services {
            let range = service.slots_start..service.slots_start + service.slots_len;
            found.extend(self.slots(range).iter().map(|s| (s.first, s.owner)));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Dataplane for Fake {
    fn config(&self) -> Config {
        self.config
    }

    fn set_config(&mut self, config: &Config) {
        self.config = *config;
    }

    fn set_nat_sources(&mut self, _sources: &[IpAddr]) -> Result<()> {
        Ok(())
    }

    fn services(&self) -> Vec<Service> {
        self.services.clone()
    }

    fn publish(&mut self, services: &[Service]) -> Result<()> {
        self.services = services.to_vec();
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

    fn slots(&self, range: Range<u32>) -> Vec<Slot> {
        self.slots[range.start as usize..range.end as usize].to_vec()
    }

    fn write_slots(&mut self, start: u32, slots: &[Slot]) {
        let start = start as usize;
        self.slots[start..start + slots.len()].copy_from_slice(slots);
    }

    fn swap_slot(&mut self, index: u32, old: Slot, new: Slot) -> Result<(), Slot> {
        let slot = &mut self.slots[index as usize];
        if *slot != old {
            return Err(*slot);
        }
        *slot = new;
        Ok(())
    }

    fn counters(&self) -> Result<Counters> {
        Ok(Counters {
            members: vec![MemberCounters::default(); self.members.len()],
            drops: Vec::new(),
        })
    }

    fn sweep(&mut self, _limits: SweepLimits) -> Result<()> {
        self.swept = Some(Sweep {
            tracked: self.tracked.clone(),
            ..Sweep::default()
        });
        Ok(())
    }

    fn swept(&mut self) -> Option<Result<Sweep>> {
        self.swept.take().map(Ok)
    }

    fn add_port(&mut self, interface: u32) -> Result<()> {
        self.ports.push(interface);
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: self.config,
            displacements: Vec::new(),
            services: self.services.clone(),
            members: self.members.clone(),
            slots: self.slots.clone(),
            nat_sources: Vec::new(),
        }
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
