//! Seed of the choice of ports of `nat`: drawn once for maps, and known to nobody else.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use steer_common::abi::Config as Settings;

/// The settings with the seed that the maps have, or with a new one. A hash of nothing by keys that the standard library
/// draws from the system is as good as a random number.
pub(super) fn with_nat_seed(settings: Settings, present: &Settings) -> Settings {
    let nat_port_seed = match present.nat_port_seed {
        0 => RandomState::new().build_hasher().finish().max(1),
        seed => seed,
    };
    Settings {
        nat_port_seed,
        ..settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_drawn_once() {
        let fresh = Settings::default();
        let seeds = [0; 8].map(|_| with_nat_seed(fresh, &fresh).nat_port_seed);
        assert!(seeds.iter().all(|seed| *seed != 0));
        assert!(seeds.iter().any(|seed| *seed != seeds[0]));
        let present = with_nat_seed(fresh, &fresh);
        assert_eq!(with_nat_seed(fresh, &present), present);
    }
}
