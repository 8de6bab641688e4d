//! The difference of two tables, as the slot changes that lead from one to the other.

use super::maglev::Choice;

/// One slot's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotChange {
    /// The slot's index in its table.
    pub slot: usize,
    /// The new first choice.
    pub first: u16,
    /// The new second choice.
    pub second: u16,
}

/// The slots in which `desired` differs from `old`, in ascending order.
///
/// A slot that only one of the tables has counts as zero in the other, so a longer `old` ends
/// in changes to zero.
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
