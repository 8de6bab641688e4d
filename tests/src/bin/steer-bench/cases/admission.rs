//! Admission control.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use steer_common::abi::Mode;
use steer_core::dataplane::SteeringTables as _;
use steer_dataplane::KernelMaps;

use crate::{case::Case, goal::Goal, scene::Scene};

const LIMITED: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 6);

pub(crate) const CASES: [Case; 2] = [
    Case::open("ipip new, limited", LIMITED)
        .grown(20)
        .new_flow(),
    Case {
        setting: Some(deny_others),
        ..Case::open("ipip open, deny list", LIMITED).grown(20)
    },
];

pub(crate) const GOALS: [Goal; 2] = [
    Goal::each(
        "ipip new, limited",
        &[(1.4, "ipip open"), (1.0, "bare array look-up")],
    ),
    Goal::each(
        "ipip open, deny list",
        &[(1.0, "ipip open"), (1.0, "bare LPM look-up")],
    ),
];

pub(crate) fn prepare(scene: &mut Scene<'_>) {
    let table = scene.settled(Mode::Ipip, false);
    let service = scene.service(LIMITED.into(), table);
    // A limit that is checked and never reached.
    service.flow_interval = 1;
    service.flow_burst = u64::MAX / 2;
}

/// Denies 256 prefixes without any client.
fn deny_others(maps: &mut KernelMaps, on: bool) -> Result<()> {
    let denied: Vec<(IpAddr, u8)> = (0..=255)
        .filter(|_| on)
        .map(|net| (Ipv4Addr::new(172, 16, net, 0).into(), 24))
        .collect();
    maps.set_denied(&denied)?;
    let mut config = maps.config();
    config.denies = u32::from(on);
    maps.set_config(&config);
    Ok(())
}
