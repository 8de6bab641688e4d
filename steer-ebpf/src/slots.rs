//! Slots of the arena.

use core::mem::offset_of;

use steer_common::abi::{Slot, Track};

use crate::maps::SLOTS;

/// Returns a slot.
#[inline(always)]
pub(crate) fn load(index: u32) -> Option<Slot> {
    let word = SLOTS.get_ptr(index)?.cast::<u64>();
    // SAFETY: inside the map. One load of the whole word, which the daemon writes atomically.
    Some(Slot::from_bits(unsafe { word.read_volatile() }))
}

/// Sets the slot's `seen`.
#[inline(always)]
pub(crate) fn mark_seen(index: u32) {
    mark(index, offset_of!(Slot, seen), 1);
}

/// Sets the slot's `track`.
#[inline(always)]
pub(crate) fn mark_track(index: u32) {
    mark(index, offset_of!(Slot, track), Track::Some as u8);
}

#[inline(always)]
fn mark(index: u32, offset: usize, value: u8) {
    if let Some(slot) = SLOTS.get_ptr_mut(index) {
        // SAFETY: inside the slot. A byte store, so that it cannot undo what the daemon does to
        // the rest of the word.
        unsafe { slot.cast::<u8>().add(offset).write_volatile(value) };
    }
}
