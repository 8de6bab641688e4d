//! steer in the simulated fleet of [`steer_sim`]: the daemon's own controller and the kernel's own decision.

mod ours;
mod path;
mod two_choices;

use steer_sim::policy::{Maker, ORACLES, RIVALS};

pub use self::ours::Ours;
pub use self::two_choices::TwoChoices;

/// steer with its default policy.
pub const STEER: Maker = Maker {
    name: "steer",
    is_bound: false,
    is_ours: true,
    make: |site, _| Box::new(Ours::new(site)),
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
    let ours = [STEER, TWO_CHOICES];
    ours.iter()
        .chain(&RIVALS)
        .chain(&ORACLES)
        .copied()
        .collect()
}
