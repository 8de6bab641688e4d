//! Which of the two folders of this version a daemon pins its maps in. Tables of flows that are to have another
//! size than those in use are made in the other folder, and taken over like those of another version
//! ([`Takeover`](super::takeover::Takeover)): the programs of before have theirs until the moment of the change.

use std::path::Path;

use anyhow::Result;

use super::{gate::Gate, pins::Pins, record::Record, sizes::Sizes, takeover::runs};

/// The pins that a daemon with tables of these sizes has to have.
///
/// # Errors
/// If what is pinned cannot be understood.
pub(super) fn place(bpffs: &Path, sizes: &Sizes) -> Result<Pins> {
    let folders = Pins::folders(bpffs);
    let mut current: Option<(&Pins, bool)> = None;
    for pins in &folders {
        // What was being taken over when a daemon died is a copy of what is in use.
        if Gate::is_closed(pins)? {
            continue;
        }
        let Some((_, programs)) = Record::read(pins)? else {
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
