//! Memory of the maps. Most of it is allocated when they are created; only denied prefixes and
//! classes take more with each entry.

use steer_core::config::Config;
use steer_dataplane::{Sizes, TRIE_ENTRY};

/// Returns the bytes of all maps for a configuration, on a host with this number of processors.
pub(super) fn of_maps(config: &Config, cpus: usize) -> u64 {
    let fixed = Sizes::from(config.limits).footprint(cpus);
    let denied = config.admission.deny.len() as u64 * TRIE_ENTRY;
    let classes = config.services.iter().flat_map(|service| &service.classes);
    let prefixes: usize = classes.map(|class| class.sources.len().max(1)).sum();
    // Once in each of the two banks.
    let classes = 2 * prefixes as u64 * TRIE_ENTRY;
    fixed.iter().map(|(_, bytes)| bytes).sum::<u64>() + denied + classes
}
