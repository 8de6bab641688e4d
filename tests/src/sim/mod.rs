//! steer in the simulated fleet of [`steer_simulator`]: the daemon's own controller and the kernel's own decision.

mod ours;
mod path;
mod two_choices;

use steer_simulator::policy::{Maker, ORACLES, RIVALS};

pub use self::ours::Ours;
pub use self::two_choices::TwoChoices;

/// steer with its default policy.
pub const STEER: Maker = Maker {
    name: "steer",
    is_bound: false,
    is_ours: true,
    make: |site, _| Box::new(Ours::new(site, "adaptive")),
};

/// steer with weights by capacity alone.
const BY_CAPACITY: Maker = Maker {
    name: "steer, policy capacity",
    make: |site, _| Box::new(Ours::new(site, "capacity")),
    ..STEER
};

/// steer with weights by flows over utilization.
const BY_UTILIZATION: Maker = Maker {
    name: "steer, policy utilization",
    make: |site, _| Box::new(Ours::new(site, "utilization")),
    ..STEER
};

/// Model of steer with choices by the expected time to the first token.
pub const TWO_CHOICES: Maker = Maker {
    name: "steer two choices (model)",
    is_bound: false,
    is_ours: true,
    make: |site, _| Box::new(TwoChoices::new(site)),
};

/// Returns all policies, ours first and bounds last.
#[must_use]
pub fn makers() -> Vec<Maker> {
    let ours = [STEER, TWO_CHOICES, BY_CAPACITY, BY_UTILIZATION];
    ours.iter()
        .chain(&RIVALS)
        .chain(&ORACLES)
        .copied()
        .collect()
}
