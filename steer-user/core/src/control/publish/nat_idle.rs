//! Idle timeouts of flows under `nat`: each service has its own.

use std::time::Duration;

use steer_common::abi::{MemberState, TICK_SHIFT};

use super::{plan::Op, tuning::Tuning};
use crate::{
    config::{Config, Protocol, Service},
    control::site::Site,
    dataplane::{Dataplane, NatIdle},
};

/// Time that the entries of a flow stay after its idle timeout, so that a client that goes on with it is told that it
/// is over: as long as the longest generations of engines take, and more than a client waits.
const LINGER: Duration = Duration::from_secs(600);
/// Percentage of the nat table in use from which on flows go at once after their idle timeout.
const LINGER_BELOW_PERCENT: usize = 75;

/// Idle timeout of a service's flows in ticks; 0 if the operator set that of all flows.
fn idle_ticks_of(service: &Service, tuning: &Tuning) -> u32 {
    let tuned = match service.protocol {
        Protocol::Tcp => tuning.nat_idle,
        Protocol::Udp => tuning.nat_udp_idle,
    };
    if tuned.is_some() {
        return 0;
    }
    ticks(service.idle_timeout)
}

/// Shortest idle timeout of a TCP service's flows in ticks; none without such a service.
pub(crate) fn shortest(config: &Config, tuning: &Tuning) -> Option<u32> {
    let services = config.services.iter();
    let tcp = services.filter(|service| service.protocol == Protocol::Tcp);
    let times = tcp.map(|service| tuning.nat_idle.unwrap_or(service.idle_timeout));
    times.min().map(ticks)
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos() >> TICK_SHIFT).unwrap_or(u32::MAX / 4)
}

/// Changes that bring the kernel the idle timeouts of services.
pub(crate) fn ops(site: &Site, tuning: &Tuning) -> Vec<Op> {
    let services = site.config.services.iter().zip(&site.ids.services);
    services
        .map(|(service, id)| Op::NatIdle(*id, idle_ticks_of(service, tuning)))
        .collect()
}

/// Idle timeouts of all members' flows, for a garbage collection over a nat table with so many entries. Flows of
/// members that retire do not linger.
pub(crate) fn of_members(
    site: &Site,
    tuning: &Tuning,
    dataplane: &impl Dataplane,
    nat_entries: usize,
) -> Vec<NatIdle> {
    let mut times = Vec::new();
    let room = site.config.limits.nat_flows as usize;
    let lingers = nat_entries * 100 < room * LINGER_BELOW_PERCENT;
    for ((service, _), id) in &site.ids.members {
        let index = usize::from(*id);
        if times.len() <= index {
            times.resize(index + 1, NatIdle::default());
        }
        let is_up = dataplane.member(*id).state == MemberState::Up as u8;
        times[index] = NatIdle {
            idle_ticks: idle_ticks_of(&site.config.services[*service], tuning),
            linger_ticks: if is_up && lingers { ticks(LINGER) } else { 0 },
        };
    }
    times
}
