//! Classes of clients, limits of sources, shedding, and limits of flows in flight.

use std::net::Ipv4Addr;

use steer_common::abi::{Address, Mode, Service, ServiceKey, SourceLimit, service_flags};
use steer_core::dataplane::{Class, SteeringTables as _};

use crate::{case::Case, goal::Goal, scene::Scene};

const PREFIX: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 20);
const DSCP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 21);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 22);
const SHEDS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 23);
const IN_FLIGHT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 24);

pub(crate) const CASES: [Case; 5] = [
    Case::open("ipip open, class by prefix", PREFIX).grown(20),
    Case::open("ipip open, class by DSCP", DSCP).grown(20),
    Case::open("ipip new, source limit", SOURCE)
        .grown(20)
        .new_flow(),
    Case::open("ipip new, may be shed", SHEDS)
        .grown(20)
        .new_flow(),
    Case::open("ipip new, in-flight limit", IN_FLIGHT)
        .grown(20)
        .new_flow(),
];

pub(crate) const GOALS: [Goal; 5] = [
    Goal::each(
        "ipip open, class by prefix",
        &[(1.0, "ipip open"), (1.0, "bare LPM look-up")],
    ),
    Goal::each(
        "ipip open, class by DSCP",
        &[
            (1.0, "ipip open"),
            (1.0, "bare LPM look-up"),
            (1.0, "bare array look-up"),
        ],
    ),
    Goal::each(
        "ipip new, source limit",
        &[
            (1.4, "ipip open"),
            (1.0, "bare array look-up"),
            (1.0, "bare LRU hit"),
        ],
    ),
    Goal::each(
        "ipip new, may be shed",
        &[(1.4, "ipip open"), (1.0, "bare array look-up")],
    ),
    Goal::each(
        "ipip new, in-flight limit",
        &[(1.4, "ipip open"), (1.0, "bare array look-up")],
    ),
];

pub(crate) fn prepare(scene: &mut Scene<'_>) {
    let table = scene.settled(Mode::Ipip, false);
    let clients = (Ipv4Addr::new(10, 7, 0, 0).into(), 16);
    // All clients are in the class; where DSCPs count, by the only DSCP they have.
    for (vip, dscp) in [(PREFIX, vec![]), (DSCP, vec![0, 46])] {
        let service = *scene.service(vip.into(), table);
        let policy = Service {
            key: ServiceKey {
                class: 1,
                ..service.key
            },
            ..service
        };
        scene.classes.push(Class {
            policy,
            sources: vec![clients],
            dscp,
        });
    }
    // A limit that is checked and never reached.
    scene.limits.push(SourceLimit {
        burst: u64::MAX / 2,
        mask: Address::from_v6([u64::MAX; 2]),
        interval: 1,
        ..SourceLimit::default()
    });
    scene.service(SOURCE.into(), table).limit = 1;
    scene.service(SHEDS.into(), table).flags |= service_flags::SHEDS;
    let limited = scene.settled(Mode::Ipip, false);
    for id in scene.last_settled() {
        let mut member = scene.maps.member(id);
        member.max_in_flight = 1_000_000;
        scene.maps.set_member(id, &member);
    }
    scene.service(IN_FLIGHT.into(), limited);
}
