//! Encapsulation and direct return: a stable table, open and new flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steer_common::abi::{Mode, Slot};

use crate::{case::Case, goal::Goal, scene::Scene};

const IPIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const IPIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1));
const GUE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 4);
const L2: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 5);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);

pub(crate) const CASES: [Case; 7] = [
    Case::open("miss", OTHER).passed(),
    Case::open("ipip open", IPIP).grown(20),
    Case::open("ipip new", IPIP).grown(20).new_flow(),
    Case::to("ipip6 open", IPIP6).grown(40),
    Case::to("ipip6 new", IPIP6).grown(40).new_flow(),
    Case::open("gue open", GUE).grown(28),
    Case::open("l2 open", L2),
];

pub(crate) const GOALS: [Goal; 5] = [
    Goal::each("ipip open", &[(5.0, "bare IPIP encap")]),
    Goal::growth("ipip open", 1.2),
    Goal::each("ipip new", &[(1.4, "ipip open")]),
    Goal::each("ipip6 open", &[(1.3, "ipip open")]),
    Goal::each("miss", &[(0.5, "ipip open")]),
];

pub(crate) fn prepare(scene: &mut Scene<'_>) {
    let table = scene.settled(Mode::Ipip, false);
    scene.service(IPIP.into(), table);
    let table = scene.settled(Mode::Ipip, true);
    scene.service(IPIP6, table);
    for (mode, address) in [(Mode::Gue, GUE), (Mode::L2, L2)] {
        let member = scene.member(mode, false);
        let table = scene.table(&[Slot::owned_by(member, 0); 100]);
        scene.service(address.into(), table);
    }
}
