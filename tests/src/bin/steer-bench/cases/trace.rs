//! What packets pay while somebody traces. While nobody does there is no code for it in the programs.

use std::net::Ipv4Addr;

use steer_common::abi::{Mode, TraceFilter};

use crate::{
    case::{Case, Program},
    goal::Goal,
    scene::Scene,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 30);
/// A port of no packet here.
const OTHER_PORT: u16 = 1;

pub(crate) const CASES: [Case; 3] = [
    Case::open("ipip open, not traced", VIP).grown(20),
    Case::open("ipip open, another port is traced", VIP)
        .grown(20)
        .by(Program::Others),
    Case::open("ipip open, traced and not told", VIP)
        .grown(20)
        .by(Program::Traced),
];

/// What is traced itself pays what it costs to keep its bytes, and has no goal.
pub(crate) const GOALS: [Goal; 1] = [Goal::each(
    "ipip open, another port is traced",
    &[(1.0, "ipip open, not traced"), (1.0, "bare array look-up")],
)];

pub(crate) fn prepare(scene: &mut Scene<'_>) {
    let table = scene.settled(Mode::Ipip, false);
    scene.service(VIP.into(), table);
}

/// The filter of a program that traces. `None` of those that do not.
pub(crate) fn filter(program: Program) -> Option<TraceFilter> {
    match program {
        Program::Others => Some(TraceFilter {
            port: OTHER_PORT,
            ..TraceFilter::default()
        }),
        // All fit, and the ring stays empty.
        Program::Traced => Some(TraceFilter {
            sample: u32::MAX,
            ..TraceFilter::default()
        }),
        _ => None,
    }
}
