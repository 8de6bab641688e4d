//! Difference of two tables, as a list of slot changes.

use super::maglev::Choice;

/// Change of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotChange {
    /// Index of the slot in its table.
    pub slot: usize,
    /// New first choice.
    pub first: u16,
    /// New second choice.
    pub second: u16,
}

/// Returns the slots in which `desired` differs from `old`, in ascending order.
///
/// A slot that only one of the tables has counts as zero in the other, so a longer `old` ends in
/// changes to zero.
#[must_use]
pub fn diff(old: &[Choice], desired: &[Choice]) -> Vec<SlotChange> {
    let at = |table: &[Choice], slot: usize| table.get(slot).copied().unwrap_or_default();
    (0..old.len().max(desired.len()))
        .filter(|slot| at(old, *slot) != at(desired, *slot))
        .map(|slot| {
            let Choice { first, second } = at(desired, slot);
            SlotChange {
                slot,
                first,
                second,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_slots_are_listed() {
        let c = |first, second| Choice { first, second };
        let s = |slot, first, second| SlotChange {
            slot,
            first,
            second,
        };
        let old = [c(1, 2), c(2, 1), c(3, 1)];
        assert_eq!(diff(&old, &old), []);
        assert_eq!(diff(&old, &[c(1, 2), c(2, 3), c(3, 1)]), [s(1, 2, 3)]);
        assert_eq!(diff(&old, &[c(1, 2), c(2, 1)]), [s(2, 0, 0)]);
        assert_eq!(diff(&[], &old[..1]), [s(0, 1, 2)]);
    }
}
