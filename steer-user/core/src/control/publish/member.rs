//! Members as the configuration and what is known of backends want them, and the changes that lead there.

use steer_common::abi::{Family, Member, MemberState, member_flags};

use super::plan::Op;
use crate::{
    config::{self, ReplyFilter},
    control::{
        backends::{Backends, state::BackendState},
        health::panic_mode::PanicMode,
        site::Site,
    },
    dataplane::Dataplane,
    domain::health::State,
};

/// Differences between the members of the data path and what they have to be.
pub(crate) struct MemberPlan<'a, D> {
    pub(crate) site: &'a Site,
    pub(crate) dataplane: &'a D,
    pub(crate) backends: &'a Backends,
    pub(crate) panic: &'a PanicMode,
}

impl<D: Dataplane> MemberPlan<'_, D> {
    /// Changes of all members.
    pub(crate) fn all(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        for ((service, backend), id) in &self.site.ids.members {
            self.differences(*service, *backend, *id, &mut ops);
        }
        ops
    }

    /// Changes of one backend's members.
    pub(crate) fn of_backend(&self, backend: &str) -> Vec<Op> {
        let mut ops = Vec::new();
        if let Some(index) = self.site.backend(backend) {
            for (service, id) in self.site.ids.of_backend(index) {
                self.differences(*service, index, *id, &mut ops);
            }
        }
        ops
    }

    /// Changes of one service's members.
    pub(crate) fn of_service(&self, service: usize) -> Vec<Op> {
        let mut ops = Vec::new();
        for (backend, id) in self.site.ids.of_service(service) {
            self.differences(service, backend, id, &mut ops);
        }
        ops
    }

    /// State that the kernel is to see of a member.
    fn state(&self, service: usize, index: usize, present: MemberState) -> MemberState {
        let backend = &self.site.config.backends[index];
        let Some(known) = self.backends.get(&backend.name) else {
            return MemberState::Down;
        };
        if known.drain.is_some_and(|drain| drain.over) {
            return MemberState::Down;
        }
        let revived = self.panic.revives(service, index);
        // An ejected one may have open flows, which stay.
        let up = if known.takes_new() && (revived || !known.is_out()) {
            MemberState::Up
        } else {
            MemberState::Draining
        };
        let is_open = matches!(present, MemberState::Up | MemberState::Draining);
        match known.health(backend) {
            // Not measured yet: what was concluded before holds.
            State::Unknown if is_open => up,
            State::Unknown => MemberState::Down,
            State::Up | State::Down if revived || known.verdict.serves() => up,
            State::Up | State::Down if known.verdict.is_down() || !is_open => MemberState::Down,
            State::Up | State::Down => MemberState::Draining,
        }
    }

    fn differences(&self, service: usize, backend: usize, id: u16, ops: &mut Vec<Op>) {
        let present = self.dataplane.member(id);
        let settings = &self.site.config.backends[backend];
        let known = self.backends.get(&settings.name);
        let mut wanted = self.wanted(service, backend, &present, known);
        let state = self.state(service, backend, MemberState::from_byte(present.state));
        wanted.state = present.state;
        // That bit is written by itself where nothing else changes: packets go on meanwhile.
        wanted.flags |= present.flags & member_flags::HOT;
        let same = wanted == present;
        let hot = known.is_some_and(|known| known.hot);
        let was_hot = present.flags & member_flags::HOT != 0;
        if hot != was_hot {
            wanted.flags ^= member_flags::HOT;
            if same {
                ops.push(Op::Hot(id, hot));
            }
        }
        if !same {
            wanted.state = state as u8;
            ops.push(Op::Member(id, wanted));
        } else if present.state != state as u8 {
            ops.push(Op::State(id, state));
        }
    }

    /// A member as it has to be, but for its state and the hot bit.
    fn wanted(
        &self,
        service: usize,
        backend: usize,
        present: &Member,
        known: Option<&BackendState>,
    ) -> Member {
        let settings = &self.site.config.backends[backend];
        let mut wanted = Member {
            macs: present.macs,
            interface: present.interface,
            vlan: present.vlan,
            mtu: present.mtu,
            reply_interfaces: present.reply_interfaces,
            flags: present.flags & member_flags::RESOLVED,
            region: self.site.regions.number(&settings.region),
            ..member(settings, self.site.ids.services[service], backend as u16)
        };
        if let Some(next_hop) = known.and_then(|known| known.next_hop) {
            wanted.flags = 0;
            if let Some(hop) = next_hop {
                wanted.macs = hop.macs;
                wanted.interface = hop.interface;
                wanted.vlan = hop.vlan;
                wanted.mtu = hop.mtu;
                wanted.reply_interfaces = match self.site.config.nat.reply_filter {
                    ReplyFilter::Strict => hop.reply_interfaces,
                    ReplyFilter::Loose => [0; 2],
                };
                wanted.flags = member_flags::RESOLVED;
            }
        }
        wanted
    }
}

/// A member, but for its state and its next hop.
fn member(backend: &config::Backend, service: u16, number: u16) -> Member {
    Member {
        address: backend.address.into(),
        mode: backend.mode as u8,
        family: Family::of_ip(&backend.address) as u8,
        port: backend.port.unwrap_or(0),
        service,
        backend: number,
        max_in_flight: backend.max_in_flight.unwrap_or(0),
        ..Member::default()
    }
}
