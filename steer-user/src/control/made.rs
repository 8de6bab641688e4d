//! What tables were made of, so that none is made again of the same.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    ops::Range,
    time::{Duration, Instant},
};

use super::chain::Member;

/// A table is made again of the same after this, should anything have changed its slots.
const AGAIN: Duration = Duration::from_secs(60);

/// A hash of what each table was made of, by its first slot, and when.
#[derive(Debug, Default)]
pub(super) struct Made(HashMap<u32, (u64, Instant)>);

impl Made {
    /// Notes that a table is made of these members and the share of nobody; false if it is already.
    pub(super) fn note(
        &mut self,
        table: &Range<u32>,
        members: &[Member<'_>],
        nobody: u32,
        now: Instant,
    ) -> bool {
        let mut hasher = DefaultHasher::new();
        (table.end, members, nobody).hash(&mut hasher);
        let of = hasher.finish();
        let before = self.0.get(&table.start);
        if before.is_some_and(|(same, at)| *same == of && now < *at + AGAIN) {
            return false;
        }
        self.0.insert(table.start, (of, now));
        true
    }

    /// Forgets all of it: tables are elsewhere now.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::balance::Tier;

    fn members(weight: u32) -> [Member<'static>; 2] {
        [("a", 1), ("b", 2)].map(|(name, id)| Member {
            id,
            name,
            tier: Tier::default(),
            healthy: true,
            capacity: 100,
            weight,
            full: false,
            open: true,
        })
    }

    #[test]
    fn a_table_is_made_again_when_something_is_different_or_long_ago() {
        let (mut made, now) = (Made::default(), Instant::now());
        let (table, other) = (0..101, 101..202);
        assert!(made.note(&table, &members(1), 0, now));
        assert!(!made.note(&table, &members(1), 0, now + AGAIN / 2));
        assert!(made.note(&other, &members(1), 0, now));
        assert!(made.note(&table, &members(2), 0, now));
        assert!(made.note(&table, &members(1), 0, now));
        assert!(made.note(&table, &members(1), 1, now));
        assert!(made.note(&table, &members(1)[..1], 1, now));
        assert!(!made.note(&table, &members(1)[..1], 1, now));
        assert!(made.note(&table, &members(1)[..1], 1, now + AGAIN));
        made.forget();
        assert!(made.note(&other, &members(1), 0, now));
    }
}
