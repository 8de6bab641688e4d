//! Cost of tracing for packets. Without a trace the programs contain no code for it.

use std::net::Ipv4Addr;

use steer_common::abi::{Mode, TraceFilter};

use crate::{
    case::{Case, Program},
    goal::Goal,
    scene::Scene,
};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 30);
/// A port that no packet here has.
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

/// A traced packet pays for the copy of its bytes, and has no goal.
pub(crate) const GOALS: [Goal; 1] = [Goal::each(
    "ipip open, another port is traced",
    &[(1.0, "ipip open, not traced"), (1.0, "bare array look-up")],
)];

pub(crate) fn prepare(scene: &mut Scene<'_>) {
    let table = scene.settled(Mode::Ipip, false);
    scene.service(VIP.into(), table);
}

/// Returns the filter of a tracing program; `None` for others.
pub(crate) fn filter(program: Program) -> Option<TraceFilter> {
    match program {
        Program::Others => Some(TraceFilter {
            port: OTHER_PORT,
            ..TraceFilter::default()
        }),
        // All match, and the ring stays empty.
        Program::Traced => Some(TraceFilter {
            sample: u32::MAX,
            ..TraceFilter::default()
        }),
        _ => None,
    }
}
