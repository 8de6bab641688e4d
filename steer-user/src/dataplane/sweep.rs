//! Removing flows that are over.

use anyhow::Result;
use steer_common::abi::{FlowKey, NatForward, NatReverse, NatState, TICK_SHIFT, age};

use super::{Sweep, SweepLimits, kernel_maps::KernelMaps};

/// The kernel's clock of flows: see [`TICK_SHIFT`].
pub fn now_ms() -> u32 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: room for the answer, and a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    let nanoseconds = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    (nanoseconds >> TICK_SHIFT) as u32
}

pub(super) fn sweep(maps: &mut KernelMaps, limits: &SweepLimits) -> Result<Sweep> {
    let now = now_ms();
    let mut sweep = Sweep::default();
    sweep_flows(maps, limits, now, &mut sweep);
    sweep_forward(maps, limits, now, &mut sweep);
    sweep_reverse(maps, limits, now, &mut sweep);
    Ok(sweep)
}

fn sweep_flows(maps: &mut KernelMaps, limits: &SweepLimits, now: u32, sweep: &mut Sweep) {
    let mut idle = Vec::new();
    // An entry that is evicted meanwhile ends an iteration early; the next sweep sees the rest.
    for (key, entry) in maps.flows.iter().flatten() {
        if age(now, entry.last_ms) > limits.flow_idle_ms {
            idle.push(key);
        } else {
            sweep.tracked.push((entry.slot, entry.member));
        }
    }
    sweep.removed += idle.len();
    for key in idle {
        // Gone already is as good.
        let _ = maps.flows.remove(&key);
    }
}

fn is_over(limits: &SweepLimits, state: u8, idle: u32) -> bool {
    idle > limits.nat_idle_ms || (state >= NatState::Closing as u8 && idle > limits.nat_closed_ms)
}

fn sweep_forward(maps: &mut KernelMaps, limits: &SweepLimits, now: u32, sweep: &mut Sweep) {
    let mut over = Vec::new();
    for (key, entry) in maps.nat_forward.iter().flatten() {
        let reverse_key = reverse_key(&key, &entry);
        let mut idle = age(now, entry.last_ms);
        if let Ok(reverse) = maps.nat_reverse.get(&reverse_key, 0) {
            idle = idle.min(age(now, reverse.last_ms));
        }
        if is_over(limits, entry.state, idle) {
            over.push((key, reverse_key));
            continue;
        }
        let member = usize::from(entry.member);
        if sweep.nat_flows.len() <= member {
            sweep.nat_flows.resize(member + 1, 0);
        }
        sweep.nat_flows[member] += 1;
    }
    sweep.removed += over.len();
    for (key, reverse_key) in over {
        // Gone already is as good.
        let _ = maps.nat_forward.remove(&key);
        let _ = maps.nat_reverse.remove(&reverse_key);
    }
}

/// Entries of backends whose counterpart was evicted.
fn sweep_reverse(maps: &mut KernelMaps, limits: &SweepLimits, now: u32, sweep: &mut Sweep) {
    let mut orphans = Vec::new();
    for (key, entry) in maps.nat_reverse.iter().flatten() {
        let idle = age(now, entry.last_ms);
        if idle <= limits.nat_closed_ms {
            continue;
        }
        let known = maps
            .nat_forward
            .get(&forward_key(&key, &entry), 0)
            .is_ok_and(|forward| {
                forward.source == key.destination && forward.source_port == key.destination_port
            });
        if !known {
            orphans.push(key);
        }
    }
    sweep.removed += orphans.len();
    for key in orphans {
        let _ = maps.nat_reverse.remove(&key);
    }
}

fn reverse_key(key: &FlowKey, entry: &NatForward) -> FlowKey {
    FlowKey {
        source: entry.backend,
        destination: entry.source,
        source_port: entry.backend_port,
        destination_port: entry.source_port,
        ..*key
    }
}

fn forward_key(key: &FlowKey, entry: &NatReverse) -> FlowKey {
    FlowKey {
        source: entry.client,
        destination: entry.vip,
        source_port: entry.client_port,
        destination_port: entry.vip_port,
        ..*key
    }
}
