//! Flow-table entries, created because slots are changing their owner.

use std::net::Ipv4Addr;

use anyhow::Result;
use steer_common::abi::{FlowEntry, Mode, Slot, Track};
use steer_dataplane::now_ticks;

use crate::{
    case::{Case, key},
    goal::Goal,
    scene::Scene,
};

const NEW: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 7);
const OPEN: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 8);

pub(crate) const CASES: [Case; 2] = [
    Case::open("ipip open, tracked", OPEN).grown(20),
    Case::open("ipip new, tracked", NEW).grown(20).new_flow(),
];

pub(crate) const GOALS: [Goal; 1] = [Goal::each(
    "ipip open, tracked",
    &[(1.0, "ipip open"), (1.0, "bare LRU hit")],
)];

pub(crate) fn prepare(scene: &mut Scene<'_>) -> Result<()> {
    let [first, second] = [(); 2].map(|()| scene.member(Mode::Ipip, false));
    // New flows differ from the owner, so that each needs an entry.
    let moving = Slot {
        owner: second,
        ..Slot::owned_by(first, second)
    };
    let table = scene.table(&[moving; 100]);
    scene.service(NEW.into(), table);
    let tracked = Slot {
        track: Track::Some as u8,
        ..moving
    };
    let table = scene.table(&[tracked; 100]);
    scene.service(OPEN.into(), table);
    let entry = FlowEntry {
        last_ticks: now_ticks(),
        slot: table.start(),
        member: first,
        ..FlowEntry::default()
    };
    for flow in 0..scene.flows {
        scene.maps.add_flow(&key(OPEN, flow), &entry)?;
    }
    Ok(())
}
