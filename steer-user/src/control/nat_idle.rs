//! How long flows under `nat` are kept without a packet: each service has its own time.

use std::time::Duration;

use steer_common::abi::{MemberState, TICK_SHIFT};

use super::{Controller, plan::Op, tune::Tuning};
use crate::{
    config::{Config, Protocol, Service},
    dataplane::{Dataplane, NatIdle},
};

/// How long who goes on with a flow that was idle for too long is told that it is over: as long as the longest
/// generations of engines take, and more than a client waits.
const LINGER: Duration = Duration::from_secs(600);
/// The nat table is so full, in percent, that flows that were idle for too long go at once.
const LINGER_BELOW: usize = 75;

/// The time of a service's flows in ticks; 0 if that of all flows was set by hand.
fn of(service: &Service, tuning: &Tuning) -> u32 {
    let tuned = match service.protocol {
        Protocol::Tcp => tuning.nat_idle,
        Protocol::Udp => tuning.nat_udp_idle,
    };
    if tuned.is_some() {
        return 0;
    }
    ticks(service.idle_timeout)
}

/// The shortest time of a TCP service's flows in ticks; none without such a service.
pub(super) fn shortest(config: &Config, tuning: &Tuning) -> Option<u32> {
    let tcp = config
        .services
        .iter()
        .filter(|s| s.protocol == Protocol::Tcp);
    let times = tcp.map(|service| tuning.nat_idle.unwrap_or(service.idle_timeout));
    times.min().map(ticks)
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() >> TICK_SHIFT).unwrap_or(u32::MAX / 4)
}

impl<D: Dataplane> Controller<D> {
    /// What the kernel has to know.
    pub(super) fn nat_idle_ops(&self) -> Vec<Op> {
        let services = self.config.services.iter().zip(&self.numbers.services);
        services
            .map(|(service, id)| Op::NatIdle(*id, of(service, &self.tuning)))
            .collect()
    }

    /// The times of all members' flows, for a sweep. Who is on the way out is not held up by flows that are over.
    pub(super) fn nat_idle(&self) -> Vec<NatIdle> {
        let mut times = Vec::new();
        let room = self.config.limits.nat_flows as usize;
        let lingers = self.nat_entries * 100 < room * LINGER_BELOW;
        for ((service, _), id) in &self.numbers.members {
            let index = usize::from(*id);
            if times.len() <= index {
                times.resize(index + 1, NatIdle::default());
            }
            let is_up = self.dataplane.member(*id).state == MemberState::Up as u8;
            times[index] = NatIdle {
                idle_ms: of(&self.config.services[*service], &self.tuning),
                linger_ms: if is_up && lingers { ticks(LINGER) } else { 0 },
            };
        }
        times
    }
}
