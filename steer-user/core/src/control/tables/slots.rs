//! Slots of tables in use: `first` changes at once, `owner` follows when its open flows are gone.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use steer_common::abi::{Slot, Track};

use crate::{
    dataplane::{Dataplane, GcReport},
    domain::maglev::Choice,
};

/// Checks of migrating slots within their idle timeout: many tables together have a million of them.
const CHECKS: u32 = 16;
/// Longest time between two checks of migrating slots.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Slots whose owner isn't their first choice.
#[derive(Clone, Debug, Default)]
pub(crate) struct MigratingSlots {
    /// With the time since when no open flow used it.
    slots: BTreeMap<u32, Instant>,
    /// Time of the last check of all of them.
    checked: Option<Instant>,
}

impl MigratingSlots {
    /// Finds the slots of a table that an earlier run of the daemon left migrating.
    pub(crate) fn adopt(&mut self, dataplane: &impl Dataplane, range: Range<u32>, now: Instant) {
        for (index, slot) in (range.start..).zip(dataplane.slots(range)) {
            if slot.owner != slot.first {
                self.slots.entry(index).or_insert(now);
            }
        }
    }

    /// Forgets slots that are in none of the ranges any more.
    pub(crate) fn retain(&mut self, ranges: &[Range<u32>]) {
        self.slots
            .retain(|i, _| ranges.iter().any(|r| r.contains(i)));
    }

    /// Number of migrating slots in a range.
    pub(crate) fn count(&self, range: &Range<u32>) -> usize {
        self.slots.range(range.clone()).count()
    }

    /// Gives slots their new choices; returns the number of changed slots.
    pub(crate) fn choose(
        &mut self,
        dataplane: &mut impl Dataplane,
        start: u32,
        table: &[Choice],
        now: Instant,
    ) -> usize {
        let mut changed = 0;
        let old = dataplane.slots(start..start + table.len() as u32);
        for ((index, old), choice) in (start..).zip(old).zip(table) {
            let wanted = |slot: Slot| chosen(slot, *choice);
            let Some(slot) = swap(dataplane, index, old, wanted) else {
                continue;
            };
            changed += 1;
            if slot.owner == slot.first {
                self.slots.remove(&index);
            } else {
                self.slots.entry(index).or_insert(now);
            }
        }
        changed
    }

    /// Settles slots of tables that no open flow used for the idle timeout of the table, if a check is due.
    pub(crate) fn settle_all(
        &mut self,
        dataplane: &mut impl Dataplane,
        tables: &[(Range<u32>, Duration)],
        now: Instant,
    ) {
        let shortest = tables.iter().map(|(_, idle)| *idle).min();
        let every = shortest.map_or(MAX_CHECK_INTERVAL, |idle| {
            (idle / CHECKS).min(MAX_CHECK_INTERVAL)
        });
        let is_due = |at: Instant| now.saturating_duration_since(at) >= every;
        if !self.checked.is_none_or(is_due) {
            return;
        }
        self.checked = Some(now);
        for (range, idle) in tables {
            self.settle(dataplane, range, *idle, now);
        }
    }

    /// Settles slots of a range that no open flow used for `idle`.
    fn settle(
        &mut self,
        dataplane: &mut impl Dataplane,
        range: &Range<u32>,
        idle: Duration,
        now: Instant,
    ) {
        let mut stays = |index: &u32, since: &mut Instant| {
            let old = dataplane.slot(*index);
            if old.owner == old.first {
                return false;
            }
            if old.seen != 0 {
                *since = now;
                swap(dataplane, *index, old, |slot| Slot { seen: 0, ..slot });
                return true;
            }
            if now.saturating_duration_since(*since) < idle {
                return true;
            }
            let settled = swap(dataplane, *index, old, |slot| match slot.seen {
                0 => Slot::owned_by(slot.first, slot.second).with_track(slot.track),
                _ => slot,
            });
            settled.is_none()
        };
        let found = self.slots.range_mut(range.clone());
        let settled = found.filter_map(|(index, since)| (!stays(index, since)).then_some(*index));
        let settled: Vec<u32> = settled.collect();
        for index in &settled {
            self.slots.remove(index);
        }
    }
}

/// Swaps until it is done; `None` if there was nothing to change.
fn swap(
    dataplane: &mut impl Dataplane,
    index: u32,
    mut old: Slot,
    wanted: impl Fn(Slot) -> Slot,
) -> Option<Slot> {
    loop {
        let new = wanted(old);
        if new == old {
            return None;
        }
        match dataplane.swap_slot(index, old, new) {
            Ok(()) => return Some(new),
            // The kernel wrote `seen` or `track` meanwhile.
            Err(actual) => old = actual,
        }
    }
}

fn chosen(slot: Slot, choice: Choice) -> Slot {
    let Choice { first, second } = choice;
    // Nobody's flows are left behind.
    let owner = if slot.owner == 0 { first } else { slot.owner };
    // What was seen while the slot was at rest says nothing.
    let rested = slot.owner == slot.first || owner == first;
    Slot {
        owner,
        first,
        second,
        track: slot.track,
        seen: if rested { 0 } else { slot.seen },
    }
}

/// Marks the slots with remembered flows, so that [`untrack`] knows which got another meanwhile.
pub(crate) fn mark_tracked(dataplane: &mut impl Dataplane, ranges: &[Range<u32>]) {
    for range in ranges {
        for (index, slot) in (range.start..).zip(dataplane.slots(range.clone())) {
            if slot.track == Track::Some as u8 {
                swap(dataplane, index, slot, |slot| {
                    slot.with_track(Track::Sweeping as u8)
                });
            }
        }
    }
}

/// Clears the marks of slots that the sweep found no flow of, other than its owner's.
pub(crate) fn untrack(dataplane: &mut impl Dataplane, ranges: &[Range<u32>], sweep: &GcReport) {
    let mut held: HashMap<u32, Vec<u16>> = HashMap::new();
    for (slot, member) in &sweep.tracked {
        held.entry(*slot).or_default().push(*member);
    }
    // Flows whose table has another place now name the old one until their next packet.
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let moved = sweep.tracked.iter().any(|(slot, _)| !is_in(&sorted, *slot));
    for range in ranges {
        for (index, slot) in (range.start..).zip(dataplane.slots(range.clone())) {
            if slot.track != Track::Sweeping as u8 {
                continue;
            }
            let members = held.get(&index);
            // While a slot is migrating its owner may change before its flows end.
            let differs = |m: &u16| *m != slot.owner || slot.owner != slot.first;
            let needed = moved || members.is_some_and(|members| members.iter().any(differs));
            swap(dataplane, index, slot, |slot| match slot.track {
                track if track != Track::Sweeping as u8 => slot,
                _ if needed => slot.with_track(Track::Some as u8),
                _ => slot.with_track(Track::None as u8),
            });
        }
    }
}

/// Returns whether a slot is in one of the ranges, which are in order and do not overlap.
fn is_in(ranges: &[Range<u32>], slot: u32) -> bool {
    let behind = ranges.partition_point(|range| range.start <= slot);
    let last = behind.checked_sub(1).and_then(|index| ranges.get(index));
    last.is_some_and(|range| range.contains(&slot))
}

/// Slots with another mark.
trait WithTrack {
    fn with_track(self, track: u8) -> Self;
}

impl WithTrack for Slot {
    fn with_track(self, track: u8) -> Self {
        Self { track, ..self }
    }
}
