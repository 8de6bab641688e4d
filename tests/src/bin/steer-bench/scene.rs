//! Tables for the packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use steer_common::abi::{
    Address, Config, Family, Macs, Member, MemberState, Mode, Service, ServiceKey, Slot,
    SourceLimit, member_flags,
};
use steer_core::{
    dataplane::{Class, SteeringTables as _},
    domain::maglev::{self, Weighted},
};
use steer_dataplane::KernelMaps;

use crate::case::PORT;

/// Number of members in a usual table.
const MEMBERS: u16 = 100;

/// Position and length of a table in the arena of slots.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    start: u32,
    len: u32,
}

impl Table {
    /// Returns its first slot.
    pub(crate) const fn start(self) -> u32 {
        self.start
    }
}

/// Builder of tables, to which each feature adds its own services.
pub(crate) struct Scene<'m> {
    pub(crate) maps: &'m mut KernelMaps,
    /// Interface of test runs.
    pub(crate) interface: u32,
    /// Number of open flows.
    pub(crate) flows: u32,
    pub(crate) config: Config,
    slots: u32,
    members: u16,
    services: Vec<Service>,
    /// Classes of the services.
    pub(crate) classes: Vec<Class>,
    /// Limits of sources, which services reference by index from 1.
    pub(crate) limits: Vec<SourceLimit>,
}

impl<'m> Scene<'m> {
    pub(crate) fn new(maps: &'m mut KernelMaps, interface: u32, flows: u32) -> Self {
        Self {
            maps,
            interface,
            flows,
            config: Config {
                flow_seed: 7,
                outer_v4: Ipv4Addr::new(10, 98, 0, 1).into(),
                outer_v6: Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1).into(),
                gue_port: 6080,
                ..Config::default()
            },
            slots: 0,
            members: 1,
            services: Vec::new(),
            classes: Vec::new(),
            limits: Vec::new(),
        }
    }

    /// Adds a member that is up and has a known next hop.
    pub(crate) fn member(&mut self, mode: Mode, v6: bool) -> u16 {
        let id = self.members;
        self.members += 1;
        let [high, low] = id.to_be_bytes();
        let address: IpAddr = if v6 {
            Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, id).into()
        } else {
            Ipv4Addr::new(10, 8, high, low).into()
        };
        self.maps.set_member(
            id,
            &Member {
                address: address.into(),
                macs: Macs::new([2, 0, 0, 0, 1, low], [2, 0, 0, 0, 0, 1]),
                interface: self.interface,
                state: MemberState::Up as u8,
                flags: member_flags::RESOLVED,
                mode: mode as u8,
                family: Family::of_ip(&address) as u8,
                mtu: 1500,
                ..Member::default()
            },
        );
        id
    }

    /// Adds a stable table of a hundred members.
    pub(crate) fn settled(&mut self, mode: Mode, v6: bool) -> Table {
        let ids: Vec<u16> = (0..MEMBERS).map(|_| self.member(mode, v6)).collect();
        let names: Vec<String> = ids.iter().map(|id| format!("backend-{id}")).collect();
        let weighted: Vec<Weighted<'_>> = ids
            .iter()
            .zip(&names)
            .map(|(id, name)| Weighted {
                id: *id,
                name,
                weight: 1,
            })
            .collect();
        let size = maglev::table_size(usize::from(MEMBERS));
        let slots: Vec<Slot> = maglev::build(&weighted, size, 7)
            .into_iter()
            .map(|choice| Slot::owned_by(choice.first, choice.second))
            .collect();
        self.table(&slots)
    }

    /// Returns the members of the last table of a hundred.
    pub(crate) fn last_settled(&self) -> std::ops::Range<u16> {
        self.members - MEMBERS..self.members
    }

    /// Adds a table of slots.
    pub(crate) fn table(&mut self, slots: &[Slot]) -> Table {
        let table = Table {
            start: self.slots,
            len: slots.len() as u32,
        };
        self.maps.write_slots(table.start, slots);
        self.slots += table.len;
        table
    }

    /// Adds a TCP service.
    pub(crate) fn service(&mut self, address: IpAddr, table: Table) -> &mut Service {
        let id = self.services.len() as u16;
        self.services.push(Service {
            key: ServiceKey {
                address: Address::from(address),
                port: PORT,
                protocol: 6,
                family: Family::of_ip(&address) as u8,
                class: 0,
            },
            id,
            slots_start: table.start,
            slots_len: table.len,
            regions: u64::MAX,
            ..Service::default()
        });
        let last = self.services.len() - 1;
        &mut self.services[last]
    }

    /// Publishes everything added.
    pub(crate) fn publish(self) -> Result<()> {
        self.maps.set_config(&self.config);
        self.maps
            .publish_with(&self.services, &self.classes, &self.limits)
    }
}
