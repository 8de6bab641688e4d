//! Room for tables in the arena of slots.

use std::ops::Range;

use steer_common::abi::MAX_SLOTS;

/// Ranges of the arena that are in use.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    used: Vec<Range<u32>>,
}

impl Arena {
    pub(crate) fn new(used: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut used: Vec<_> = used.into_iter().filter(|r| !r.is_empty()).collect();
        used.sort_by_key(|r| r.start);
        Self { used }
    }

    /// The first range of `len` slots that is free; `None` if there is none.
    pub(crate) fn allocate(&mut self, len: u32) -> Option<Range<u32>> {
        let mut start = 0;
        let mut place = self.used.len();
        for (index, range) in self.used.iter().enumerate() {
            if range.start.saturating_sub(start) >= len {
                place = index;
                break;
            }
            start = start.max(range.end);
        }
        let range = start..start.checked_add(len).filter(|end| *end <= MAX_SLOTS)?;
        self.used.insert(place, range.clone());
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_and_nothing_overlaps() {
        let mut arena = Arena::new([100..200, 0..10, 5..5]);
        assert_eq!(arena.allocate(90), Some(10..100));
        assert_eq!(arena.allocate(1), Some(200..201));
        assert_eq!(arena.allocate(MAX_SLOTS), None);
        assert_eq!(arena.allocate(MAX_SLOTS - 201), Some(201..MAX_SLOTS));
        assert_eq!(arena.allocate(1), None);
    }
}
