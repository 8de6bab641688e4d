//! Garbage collection of the real maps.

use std::{net::Ipv4Addr, thread, time::Duration};

use steer_common::abi::{FlowKey, NatForward, NatReverse, NatTimeouts, nat_state};
use steer_core::dataplane::{FlowTables as _, GcLimits, GcReport, TrafficCounters as _};
use steer_dataplane::{KernelMaps, now_coarse_ns, now_ticks};

use crate::fixture::Fixture;

const LIMITS: GcLimits = GcLimits {
    flow_idle_ticks: 1000,
    nat: NatTimeouts {
        idle_ticks: 60_000,
        udp_idle_ticks: 30_000,
        unassured_ticks: 20_000,
        udp_unassured_ticks: 5_000,
        closed_ticks: 10_000,
    },
    nat_idle: Vec::new(),
    silence: Duration::from_secs(5),
};

fn swept(maps: &mut KernelMaps) -> GcReport {
    maps.start_gc(LIMITS).unwrap();
    loop {
        if let Some(result) = maps.take_gc_report() {
            return result.unwrap();
        }
        thread::yield_now();
    }
}

fn keys(number: u16, protocol: u8) -> (FlowKey, FlowKey) {
    let key = FlowKey {
        source: Ipv4Addr::new(192, 0, 2, 1).into(),
        destination: Ipv4Addr::new(10, 99, 0, 3).into(),
        source_port: number,
        destination_port: 80,
        protocol,
        family: 4,
        member: 0,
    };
    let reverse = FlowKey {
        source: Ipv4Addr::new(10, 8, 0, 5).into(),
        destination: Ipv4Addr::new(10, 98, 0, 1).into(),
        source_port: 80,
        destination_port: number,
        ..key
    };
    (key, reverse)
}

/// Adds a flow of a given age.
fn add(maps: &mut KernelMaps, number: u16, protocol: u8, state: u8, idle: [u32; 2]) {
    let (key, reverse_key) = keys(number, protocol);
    let [client, backend] = idle.map(|idle| now_ticks().wrapping_sub(idle));
    let forward = NatForward {
        source: reverse_key.destination,
        source_port: number,
        backend: reverse_key.source,
        backend_port: 80,
        member: 5,
        state,
        last_ticks: client,
        ..NatForward::default()
    };
    let reverse = NatReverse {
        client: key.source,
        client_port: number,
        vip: key.destination,
        vip_port: 80,
        member: 5,
        state,
        last_ticks: backend,
        ..NatReverse::default()
    };
    maps.add_nat_flow(&key, &forward, &reverse_key, &reverse)
        .unwrap();
}

#[test]
fn what_both_ends_have_left_goes_and_the_rest_stays() {
    const NEW: u8 = nat_state::ANSWERED;
    const OPEN: u8 = NEW | nat_state::ASSURED;
    const HALF: u8 = OPEN | nat_state::CLIENT_DONE;
    const OVER: u8 = HALF | nat_state::BACKEND_DONE;
    let mut fixture = Fixture::new();
    let maps = fixture.xdp.maps();
    let cases = [
        (6, OPEN, [0, 0], true),
        (6, OPEN, [70_000, 0], true),
        (6, OPEN, [0, 70_000], true),
        (6, OPEN, [70_000, 70_000], false),
        (6, HALF, [20_000, 20_000], true),
        (6, OVER, [9_000, 20_000], true),
        (6, OVER, [20_000, 9_000], true),
        (6, OVER, [20_000, 20_000], false),
        (6, OPEN | nat_state::RESET, [20_000, 9_000], true),
        (6, OPEN | nat_state::RESET, [20_000, 20_000], false),
        (6, NEW, [21_000, 19_000], true),
        (6, NEW, [21_000, 21_000], false),
        (17, NEW, [6_000, 4_000], true),
        (17, NEW, [6_000, 6_000], false),
        (17, OPEN, [29_000, 29_000], true),
        (17, OPEN, [31_000, 31_000], false),
    ];
    for (number, (protocol, state, idle, _)) in (1..).zip(cases) {
        add(maps, number, protocol, state, idle);
    }
    let sweep = swept(maps);
    for (number, (protocol, state, idle, stays)) in (1..).zip(cases) {
        let (key, reverse_key) = keys(number, protocol);
        let found = (
            maps.nat_forward(&key).is_some(),
            maps.nat_reverse(&reverse_key).is_some(),
        );
        assert_eq!(found, (stays, stays), "{protocol} {state:#x} {idle:?}");
    }
    let stay = cases.iter().filter(|case| case.3).count();
    assert_eq!(sweep.nat_flows[5] as usize, stay);
    assert_eq!(sweep.removed, cases.len() - stay);
}

#[test]
fn halves_go_once_they_are_idle() {
    let mut fixture = Fixture::new();
    let maps = fixture.xdp.maps();
    for (number, idle) in [(1, 70_000), (2, 100)] {
        add(maps, number, 6, nat_state::ASSURED, [idle, idle]);
        add(maps, number + 10, 6, nat_state::ASSURED, [idle, idle]);
        maps.evict(Some(&keys(number, 6).0), None);
        maps.evict(None, Some(&keys(number + 10, 6).1));
    }
    swept(maps);
    for (number, stays) in [(1, false), (2, true)] {
        let reverse = maps.nat_reverse(&keys(number, 6).1).is_some();
        let forward = maps.nat_forward(&keys(number + 10, 6).0).is_some();
        assert_eq!((reverse, forward), (stays, stays));
    }
}

#[test]
fn flows_that_wait_for_an_answer_are_counted() {
    let mut fixture = Fixture::new();
    let maps = fixture.xdp.maps();
    for (number, asked, over) in [
        (1, None, 0),
        (2, Some(1), 0),
        (3, Some(7), 0),
        (4, Some(9), nat_state::RESET),
    ] {
        let (key, reverse_key) = keys(number, 6);
        add(maps, number, 6, nat_state::ASSURED | over, [0, 0]);
        let forward = maps.nat_forward(&key).unwrap();
        let mut reverse = maps.nat_reverse(&reverse_key).unwrap();
        if let Some(seconds) = asked {
            reverse.peer_state ^= nat_state::REQUEST_PARITY;
            reverse.request_ns = now_coarse_ns() - seconds * 1_000_000_000;
        }
        maps.add_nat_flow(&key, &forward, &reverse_key, &reverse)
            .unwrap();
    }
    let waiting = swept(maps).waiting[5];
    assert_eq!((waiting.flows, waiting.silent), (2, 1));
    let longest = waiting.longest.as_secs_f64();
    assert!((7.0..60.0).contains(&longest), "{longest}");
}

#[test]
fn what_is_measured_comes_with_the_sweep() {
    let mut fixture = Fixture::new();
    let maps = fixture.xdp.maps();
    assert_eq!(swept(maps).latency.len(), 4);
    maps.set_latency_members(&[5, 9]).unwrap();
    let measured = swept(maps).latency;
    let mut ids: Vec<_> = measured.keys().copied().collect();
    ids.sort_unstable();
    assert_eq!(ids, [5, 9]);
    assert_eq!(measured[&9], maps.latency(9).unwrap().unwrap());
    assert_eq!(maps.latency(6).unwrap(), None);
}

#[test]
fn tables_larger_than_a_batch_are_swept_whole() {
    let mut fixture = Fixture::with_flows(1 << 17);
    let maps = fixture.xdp.maps();
    for number in 0..20_000 {
        let idle = if number % 2 == 0 { 70_000 } else { 0 };
        add(maps, number, 6, nat_state::ASSURED, [idle, idle]);
    }
    let sweep = swept(maps);
    assert_eq!((sweep.nat_flows[5], sweep.removed), (10_000, 10_000));
    assert_eq!((swept(maps).nat_flows[5], swept(maps).removed), (10_000, 0));
}
