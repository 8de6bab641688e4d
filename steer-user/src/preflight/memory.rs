//! Memory of the maps. It is taken when they are made, whether they are full or not; only
//! prefixes of what is denied and of classes take more with each.

use crate::{
    config::Config,
    dataplane::{Sizes, TRIE_ENTRY},
};

/// Bytes that the maps take for a configuration, on a host with so many processors.
pub(super) fn of_maps(config: &Config, cpus: usize) -> u64 {
    let fixed = Sizes::from(config.limits).footprint(cpus);
    let denied = config.admission.deny.len() as u64 * TRIE_ENTRY;
    let classes = config.services.iter().flat_map(|service| &service.classes);
    let prefixes: usize = classes.map(|class| class.sources.len().max(1)).sum();
    // In each of the two banks.
    let classes = 2 * prefixes as u64 * TRIE_ENTRY;
    fixed.iter().map(|(_, bytes)| bytes).sum::<u64>() + denied + classes
}
