//! steer in the simulated fleet of [`steer_sim`]: the daemon's own controller and the kernel's own decision.

mod ours;
mod path;

use steer_sim::policy::{Maker, ORACLES, RIVALS};

pub use self::ours::Ours;

/// steer with its default policy.
pub const STEER: Maker = Maker {
    name: "steer",
    is_bound: false,
    is_ours: true,
    make: |site, _| Box::new(Ours::new(site)),
};

/// Returns all policies, ours first and bounds last.
#[must_use]
pub fn makers() -> Vec<Maker> {
    let ours = [STEER];
    ours.iter()
        .chain(&RIVALS)
        .chain(&ORACLES)
        .copied()
        .collect()
}
