//! Choice between the two pin folders of this version. Flow tables that must be resized are created
//! in the other folder, and taken over like those of another version
//! ([`Upgrade`](super::Upgrade)): the previous programs keep theirs until the cut-over.

use std::path::Path;

use anyhow::Result;

use super::{
    super::{pins::Pins, sizes::Sizes},
    Cutover, LayoutRecord, runs,
};

/// Returns the pins for a daemon with tables of these sizes.
///
/// # Errors
///
/// Returns an error if the existing pins are invalid.
pub(crate) fn active_pins(bpffs: &Path, sizes: &Sizes) -> Result<Pins> {
    let folders = Pins::folders(bpffs);
    let mut current: Option<(&Pins, bool)> = None;
    for pins in &folders {
        // An unfinished takeover is only a copy of the maps in use.
        if Cutover::is_pending(pins)? {
            continue;
        }
        let Some((_, programs)) = LayoutRecord::read(pins)? else {
            continue;
        };
        let running = runs(pins, &programs);
        if current.is_none_or(|(_, best)| running && !best) {
            current = Some((pins, running));
        }
    }
    let [first, second] = &folders;
    let Some((current, _)) = current else {
        return Ok(first.clone());
    };
    let other = if current == first { second } else { first };
    let fits = current.check(sizes)?.is_empty();
    Ok(if fits { current } else { other }.clone())
}
