//! Flows with rewritten addresses.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use steer_common::abi::{
    ClientNextHop, Config, MAX_MEMBERS, MAX_NAT_ADDRESSES, Macs, Mode, NatForward, NatReverse,
    NatTimeouts, Sequence, Slot, nat_state, service_flags,
};
use steer_core::dataplane::{SteeringTables as _, TrafficCounters as _};
use steer_dataplane::{KernelMaps, now_coarse_ns, now_ticks};

use crate::{
    case::{Case, PORT, key},
    goal::Goal,
    scene::Scene,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);

pub(crate) const CASES: [Case; 5] = [
    Case::open("nat forward", VIP).translated(),
    Case::open("nat reverse", SOURCE).translated(),
    Case {
        setting: Some(measured),
        ..Case::open("nat forward, measured", VIP).translated()
    },
    Case {
        setting: Some(measured),
        ..Case::open("nat reverse, measured", SOURCE).translated()
    },
    Case {
        unique: true,
        ..Case::open("nat new", VIP).translated().new_flow()
    },
];

pub(crate) const GOALS: [Goal; 5] = [
    Goal::each(
        "nat forward",
        &[(1.0, "bare LRU hit"), (8.0, "bare IPIP encap")],
    ),
    Goal::each(
        "nat reverse",
        &[(1.0, "bare LRU hit"), (8.0, "bare IPIP encap")],
    ),
    Goal::each(
        "nat forward, measured",
        &[(1.0, "bare LRU hit"), (8.0, "bare IPIP encap")],
    ),
    Goal::each(
        "nat reverse, measured",
        &[(1.0, "bare LRU hit"), (8.0, "bare IPIP encap")],
    ),
    Goal::each("nat new", &[(2.5, "bare LRU insert")]),
];

/// Enables or disables the measurement of latencies.
fn measured(maps: &mut KernelMaps, on: bool) -> Result<()> {
    let members: Vec<u16> = (1..MAX_MEMBERS as u16)
        .filter(|id| on && maps.member(*id).mode == Mode::Nat as u8)
        .collect();
    maps.set_latency_members(&members)?;
    let config = maps.config();
    maps.set_config(&Config {
        burst_gap_us: if on { 2000 } else { 0 },
        ..config
    });
    Ok(())
}

pub(crate) fn prepare(scene: &mut Scene<'_>) -> Result<()> {
    // As many as possible, so that ports for new flows never run out.
    let sources: Vec<IpAddr> = (1..=MAX_NAT_ADDRESSES as u8)
        .map(|host| Ipv4Addr::new(10, 98, 0, host).into())
        .collect();
    scene.maps.set_nat_sources(&sources)?;
    scene.config.nat_v4 = MAX_NAT_ADDRESSES as u16;
    scene.config.nat_port_first = 20_000;
    scene.config.nat_port_count = 40_000;
    scene.config.nat_timeouts = NatTimeouts {
        idle_ticks: 1_000_000_000,
        udp_idle_ticks: 1_000_000_000,
        unassured_ticks: 1_000_000_000,
        udp_unassured_ticks: 1_000_000_000,
        closed_ticks: 1_000_000_000,
    };
    // New flows evict each other, so that the table is never full.
    scene.config.nat_unassured_max = 1 << 14;
    let member = scene.member(Mode::Nat, false);
    let table = scene.table(&[Slot::owned_by(member, 0); 100]);
    scene.service(VIP.into(), table).flags = service_flags::HAS_NAT;
    for source in sources {
        let replies = scene.service(source, table);
        replies.key.port = 0;
        replies.flags = service_flags::NAT_SOURCE;
    }
    let now = now_ticks();
    let forward = NatForward {
        source: SOURCE.into(),
        last_ticks: now,
        opened_ticks: now,
        source_port: 20_000,
        backend_port: PORT,
        member,
        state: nat_state::ASSURED,
        peer_state: nat_state::ANSWERED,
        backend: scene.maps.member(member).address,
        client_hop: ClientNextHop {
            // Source of the benchmark's packets.
            macs: Macs::new([2, 2, 0, 0, 0, 2], [2, 1, 0, 0, 0, 1]),
            interface: scene.interface,
            ..ClientNextHop::default()
        },
        sequence: Sequence::default(),
    };
    let reverse = NatReverse {
        vip: VIP.into(),
        client: Ipv4Addr::new(10, 7, 0, 1).into(),
        last_ticks: now,
        vip_port: PORT,
        client_port: 1024,
        member,
        // In the middle of an answer: a gap is measured wherever there is one.
        state: nat_state::ANSWERED | nat_state::REQUEST_PARITY | nat_state::SECOND_BURST_SEEN,
        peer_state: nat_state::ASSURED | nat_state::REQUEST_PARITY,
        last_answer_ns: now_coarse_ns(),
        client_hop: forward.client_hop,
        ..NatReverse::default()
    };
    for flow in 0..scene.flows {
        let keys = [key(VIP, flow), key(SOURCE, flow)];
        scene
            .maps
            .add_nat_flow(&keys[0], &forward, &keys[1], &reverse)?;
    }
    Ok(())
}
