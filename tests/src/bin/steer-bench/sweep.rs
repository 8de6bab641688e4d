//! Cost of the garbage collection of a large nat table, and its effect on the loop.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use steer_common::abi::{FlowKey, NatForward, NatReverse, NatTimeouts, Slot, nat_state};
use steer_core::dataplane::{FlowTables as _, GcLimits, SteeringTables as _};
use steer_dataplane::{KernelMaps, OpenOptions, Sizes, Xdp, now_ticks};

const LIMITS: GcLimits = GcLimits {
    flow_idle_ticks: 300_000,
    nat: NatTimeouts {
        idle_ticks: 300_000,
        udp_idle_ticks: 300_000,
        unassured_ticks: 30_000,
        udp_unassured_ticks: 30_000,
        closed_ticks: 10_000,
    },
    nat_idle: Vec::new(),
    silence: Duration::from_secs(30),
};
/// Interval of the loop's work meanwhile.
const TURN: Duration = Duration::from_millis(1);

/// Collects a table of flows that are all in use, then one of flows that are all over, and prints
/// the cost.
pub(crate) fn run(flows: u32) -> Result<()> {
    let mut xdp = Xdp::open(&OpenOptions {
        sizes: Sizes::of_each(flows),
        ..OpenOptions::default()
    })?;
    println!(
        "{:<24}{:>12}{:>12}{:>12}{:>12}{:>16}",
        "sweep of the nat table", "flows", "removed", "ms", "CPU ms", "loop late by ms"
    );
    for (what, idle) in [("all in use", 0), ("all over", 301_000)] {
        fill(xdp.maps(), flows, idle)?;
        sweep(xdp.maps(), what, flows)?;
    }
    Ok(())
}

fn fill(maps: &mut KernelMaps, flows: u32, idle: u32) -> Result<()> {
    let last_ms = now_ticks().wrapping_sub(idle);
    for flow in 0..flows {
        let port = 20_000 + (flow % 40_000) as u16;
        let key = FlowKey {
            source: Ipv4Addr::from(0x0a07_0000 + flow / 40_000).into(),
            destination: Ipv4Addr::new(10, 99, 0, 1).into(),
            source_port: port,
            destination_port: 443,
            protocol: 6,
            family: 4,
            member: 0,
        };
        let forward = NatForward {
            source: Ipv4Addr::new(10, 98, 0, 1).into(),
            source_port: port,
            backend: Ipv4Addr::from(0x0a08_0000 + flow / 40_000).into(),
            backend_port: 443,
            member: 1 + (flow % 100) as u16,
            state: nat_state::ASSURED,
            peer_state: nat_state::ANSWERED,
            last_ticks: last_ms,
            ..NatForward::default()
        };
        let reverse = NatReverse {
            client: key.source,
            client_port: port,
            vip: key.destination,
            vip_port: 443,
            member: forward.member,
            state: nat_state::ANSWERED,
            peer_state: nat_state::ASSURED,
            last_ticks: last_ms,
            ..NatReverse::default()
        };
        maps.add_nat_flow(&key, &forward, &forward.reverse_key(&key), &reverse)?;
    }
    Ok(())
}

fn sweep(maps: &mut KernelMaps, what: &str, flows: u32) -> Result<()> {
    let (start, cpu) = (Instant::now(), cpu_time());
    maps.start_gc(LIMITS)?;
    let mut late = start.elapsed();
    let result = loop {
        let turn = Instant::now();
        if let Some(result) = maps.take_gc_report() {
            break result?;
        }
        // The loop's operation on a slot.
        let slot = maps.slots(0..1)[0];
        ensure!(
            maps.swap_slot(0, slot, Slot { first: 1, ..slot }).is_ok(),
            "somebody else writes slots"
        );
        thread::sleep(TURN);
        late = late.max(turn.elapsed().saturating_sub(TURN));
    };
    let took = start.elapsed();
    let cpu = cpu_time().saturating_sub(cpu);
    let open: u32 = result.nat_flows.iter().sum();
    ensure!(
        open as usize + result.removed == flows as usize,
        "{open} flows left and {} removed of {flows}",
        result.removed
    );
    println!(
        "{what:<24}{flows:>12}{:>12}{:>12}{:>12}{:>16.1}",
        result.removed,
        took.as_millis(),
        cpu.as_millis(),
        late.as_secs_f64() * 1000.0
    );
    Ok(())
}

/// Returns the CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: room for the answer, and a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
