//! Retired members: the configuration no longer has them, and they keep their open flows until none is left.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::abi::MemberState;
use tracing::info;

use super::{
    plan::Op,
    quic_server_ids::{self, IdleTracker},
    settings,
};
use crate::{
    control::{record::recorder::Recorder, site::Site},
    dataplane::{Dataplane, GcReport},
    journal::Event,
};

/// Time that retired members may take new flows while no member of the configuration can.
const HANDOVER: Duration = Duration::from_secs(3);

/// Members that are on their way out.
#[derive(Clone, Debug, Default)]
pub(crate) struct RetiredMembers {
    /// Whether there were any when the configuration was applied.
    any: bool,
    /// End of the time in which they stand in for members that are not measured yet.
    handover: Option<Instant>,
    /// Members with server ids of QUIC.
    idle: IdleTracker,
}

impl RetiredMembers {
    /// Notes that another configuration counts from now on.
    pub(crate) fn start(&mut self, site: &Site, dataplane: &impl Dataplane, now: Instant) {
        self.any = !site.ids.retired(dataplane).is_empty();
        self.handover = Some(now + HANDOVER);
    }

    /// Returns whether there were any when the configuration was applied.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    /// Returns whether the time in which they stand in for others ends now.
    pub(crate) fn end_handover(&mut self, now: Instant) -> bool {
        self.handover.take_if(|until| now >= *until).is_some()
    }

    /// Changes that keep new flows from them. They take new ones while those that take over from them are not measured
    /// yet.
    pub(crate) fn ops(&self, site: &Site, dataplane: &impl Dataplane, now: Instant) -> Vec<Op> {
        let waits = self.handover.is_some_and(|until| now < until);
        let mut ops = Vec::new();
        for id in site.ids.retired(dataplane) {
            let member = dataplane.member(id);
            let alone = || !is_served(site, dataplane, member.service);
            if member.state == MemberState::Up as u8 && !(waits && alone()) {
                ops.push(Op::State(id, MemberState::Draining));
            }
        }
        ops
    }

    /// Frees the ids of those that nothing names any more, by what a garbage collection found.
    ///
    /// # Errors
    /// If the data path cannot be read or written.
    pub(crate) fn release(
        &mut self,
        site: &Site,
        dataplane: &mut impl Dataplane,
        recorder: &mut Recorder,
        sweep: &GcReport,
        now: Instant,
    ) -> Result<()> {
        let retired = site.ids.retired(dataplane);
        self.idle.retain(&retired);
        if retired.is_empty() {
            return Ok(());
        }
        let busy = self.busy(&retired, site, dataplane, now)?;
        let mut named: HashSet<u16> = sweep.tracked.iter().map(|(_, member)| *member).collect();
        for range in &site.tables {
            for slot in dataplane.slots(range.clone()) {
                named.extend([slot.owner, slot.first, slot.second]);
            }
        }
        for id in retired {
            let in_nat = sweep.nat_flows.get(usize::from(id)).is_some_and(|n| *n > 0);
            if !(in_nat || named.contains(&id) || busy.contains(&id)) {
                info!(member = id, "retired member released");
                recorder.record(Event::MemberReleased { member: id });
                dataplane.set_member_state(id, MemberState::Absent);
            }
        }
        // Before their ids are given out again.
        let server_ids = quic_server_ids::wanted(site, dataplane);
        dataplane.set_cids(&server_ids)
    }

    /// Members that connections of QUIC may still go to: nothing names these but the ids in their packets.
    fn busy(
        &mut self,
        retired: &[u16],
        site: &Site,
        dataplane: &impl Dataplane,
        now: Instant,
    ) -> Result<HashSet<u16>> {
        let named: HashSet<u16> = dataplane.cids().into_values().collect();
        let mut named = retired.iter().filter(|id| named.contains(id)).peekable();
        let mut busy = HashSet::new();
        if named.peek().is_none() {
            return Ok(busy);
        }
        let idle = Duration::from_millis(settings::udp_idle_ms(&site.config).into());
        let counters = dataplane.counters()?.members;
        for id in named {
            let packets = counters.get(usize::from(*id)).map_or(0, |c| c.packets);
            if !self.idle.is_idle(*id, packets, idle, now) {
                busy.insert(*id);
            }
        }
        Ok(busy)
    }
}

/// Returns whether a service, by its id, has a member that takes new flows, or is no longer configured.
fn is_served(site: &Site, dataplane: &impl Dataplane, id: u16) -> bool {
    let index = site.ids.services.iter().position(|known| *known == id);
    index.is_none_or(|index| {
        let mut own = site.ids.of_service(index);
        own.any(|(_, id)| dataplane.member(id).state == MemberState::Up as u8)
    })
}
