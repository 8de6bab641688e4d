//! What members have to be like.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::abi::{MEMBERS, Member, MemberState, member_flags};
use tracing::info;

use super::{
    Controller,
    backend::{Known, rules},
    desired,
    plan::Op,
};
use crate::{
    config::{Backend, Config, ReplyFilter},
    dataplane::{Dataplane, Sweep},
    domain::health::State,
    journal::Event,
};

impl<D: Dataplane> Controller<D> {
    /// What is known of a configuration's backends. One that is elsewhere now has to be measured
    /// anew.
    pub(super) fn known_of(&mut self, config: &Config, now: Instant) -> HashMap<String, Known> {
        let before = self.config.backends.iter();
        let before: HashMap<_, _> = before.map(|b| (b.name.as_str(), b)).collect();
        let mut all = HashMap::new();
        for backend in &config.backends {
            let name = &backend.name;
            let place = |b: &Backend| (b.address, b.beacon, b.region.clone(), b.probes.clone());
            let same = before
                .get(name.as_str())
                .is_some_and(|b| place(b) == place(backend));
            let mut known = match self.known.get(name).filter(|_| same) {
                Some(known) => known.clone(),
                None => {
                    let mut known = Known::new(config);
                    self.remind(name, &mut known, now);
                    known
                }
            };
            if !same
                || !known
                    .health
                    .has_thresholds(config.probe.rise, config.probe.fall)
                || known.rules != rules(config)
            {
                // Its next change is told from here on.
                self.recorder.forget(name);
            }
            known
                .health
                .set_thresholds(config.probe.rise, config.probe.fall);
            known.rules = rules(config);
            all.insert(name.clone(), known);
        }
        all
    }

    /// What the kernel may send a member now.
    fn state(&self, service: usize, index: usize, present: MemberState) -> MemberState {
        let backend = &self.config.backends[index];
        let Some(known) = self.known.get(&backend.name) else {
            return MemberState::Down;
        };
        if known.drained.is_some_and(|draining| draining.over) {
            return MemberState::Down;
        }
        let revived = self.revived.contains(&(service, index));
        // One that is left out may have open flows, which are nobody's business.
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

    /// Differences between the members and what they have to be.
    pub(super) fn member_ops(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        for ((service, backend), id) in &self.numbers.members {
            self.differences(*service, *backend, *id, &mut ops);
        }
        ops
    }

    /// The same of one backend's members.
    pub(super) fn member_ops_of(&self, backend: &str) -> Vec<Op> {
        let mut ops = Vec::new();
        if let Some(place) = self.concern.place(backend) {
            for (service, id) in self.numbers.of_backend(place) {
                self.differences(*service, place, *id, &mut ops);
            }
        }
        ops
    }

    /// The same of one service's members.
    pub(super) fn member_ops_of_service(&self, service: usize) -> Vec<Op> {
        let mut ops = Vec::new();
        for ((_, backend), id) in self.numbers.members.range((service, 0)..(service + 1, 0)) {
            self.differences(service, *backend, *id, &mut ops);
        }
        ops
    }

    fn differences(&self, service: usize, backend: usize, id: u16, ops: &mut Vec<Op>) {
        let present = self.dataplane.member(id);
        let settings = &self.config.backends[backend];
        let number = self.numbers.services[service];
        let mut wanted = Member {
            macs: present.macs,
            interface: present.interface,
            vlan: present.vlan,
            mtu: present.mtu,
            reply_interfaces: present.reply_interfaces,
            flags: present.flags & member_flags::RESOLVED,
            region: self.regions.number(&settings.region),
            ..desired::member(settings, number, backend as u16)
        };
        if let Some(way) = self.known.get(&settings.name).and_then(|known| known.way) {
            wanted.flags = 0;
            if let Some(hop) = way {
                wanted.macs = hop.macs;
                wanted.interface = hop.interface;
                wanted.vlan = hop.vlan;
                wanted.mtu = hop.mtu;
                wanted.reply_interfaces = match self.config.nat.reply_filter {
                    ReplyFilter::Strict => hop.reply_interfaces,
                    ReplyFilter::Loose => [0; 2],
                };
                wanted.flags = member_flags::RESOLVED;
            }
        }
        let state = self.state(service, backend, MemberState::from_byte(present.state));
        wanted.state = present.state;
        // That bit is written by itself where nothing else changes: packets go on meanwhile.
        wanted.flags |= present.flags & member_flags::HOT;
        let same = wanted == present;
        let hot = self.known.get(&settings.name).is_some_and(|k| k.hot);
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

    /// Members that the configuration no longer has keep their open flows. They take new ones, too,
    /// while those that take over from them are not measured yet.
    pub(super) fn retired_ops(&self, now: Instant) -> Vec<Op> {
        let waits = self.handover.is_some_and(|until| now < until);
        let mut ops = Vec::new();
        for id in self.retired() {
            let member = self.dataplane.member(id);
            let alone = || !self.is_served(member.service);
            if member.state == MemberState::Up as u8 && !(waits && alone()) {
                ops.push(Op::State(id, MemberState::Draining));
            }
        }
        ops
    }

    /// Whether a service, by its number, has a member that takes new flows, or is no more.
    fn is_served(&self, number: u16) -> bool {
        let index = self.numbers.services.iter().position(|n| *n == number);
        index.is_none_or(|index| {
            let mut own = self.numbers.members.range((index, 0)..(index + 1, 0));
            own.any(|(_, id)| self.dataplane.member(*id).state == MemberState::Up as u8)
        })
    }

    pub(super) fn retired(&self) -> Vec<u16> {
        let used: HashSet<u16> = self.numbers.members.values().copied().collect();
        (1..MEMBERS as u16)
            .filter(|id| self.dataplane.member(*id).state != MemberState::Absent as u8)
            .filter(|id| !used.contains(id))
            .collect()
    }

    /// Frees the numbers of members that the configuration no longer has and nothing names.
    ///
    /// # Errors
    /// If the data path cannot be read or written.
    pub(super) fn release(&mut self, sweep: &Sweep, now: Instant) -> Result<()> {
        let retired = self.retired();
        self.quiet.retain(&retired);
        if retired.is_empty() {
            return Ok(());
        }
        let busy = self.busy(&retired, now)?;
        let mut named: HashSet<u16> = sweep.tracked.iter().map(|(_, member)| *member).collect();
        for range in &self.tables {
            for slot in self.dataplane.slots(range.clone()) {
                named.extend([slot.owner, slot.first, slot.second]);
            }
        }
        for id in retired {
            let in_nat = sweep.nat_flows.get(usize::from(id)).is_some_and(|n| *n > 0);
            if !(in_nat || named.contains(&id) || busy.contains(&id)) {
                info!(member = id, "member is gone");
                self.recorder.tell(Event::Gone { member: id });
                self.dataplane.set_member_state(id, MemberState::Absent);
            }
        }
        // Before their numbers are given out again.
        let cids = self.cids();
        self.dataplane.set_cids(&cids)
    }

    /// Those of the members that connections of QUIC may still go to: nothing names these but the ids
    /// in their packets.
    fn busy(&mut self, retired: &[u16], now: Instant) -> Result<HashSet<u16>> {
        let named: HashSet<u16> = self.dataplane.cids().into_values().collect();
        let mut named = retired.iter().filter(|id| named.contains(id)).peekable();
        let mut busy = HashSet::new();
        if named.peek().is_none() {
            return Ok(busy);
        }
        let idle = Duration::from_millis(desired::udp_idle_ms(&self.config).into());
        let counters = self.dataplane.counters()?.members;
        for id in named {
            let packets = counters.get(usize::from(*id)).map_or(0, |c| c.packets);
            if !self.quiet.is(*id, packets, idle, now) {
                busy.insert(*id);
            }
        }
        Ok(busy)
    }
}
