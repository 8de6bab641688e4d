//! Inputs of tables as they were built last, so that none is built again of the same.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    ops::Range,
    time::{Duration, Instant},
};

use super::build::Member;

/// Age after which a table is built again of the same inputs, should anything have changed its slots.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Hashes of the inputs of tables, with the time of building, by the tables' first slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct BuildCache(HashMap<u32, (u64, Instant)>);

impl BuildCache {
    /// Records that a table is built of these members and the undistributed share; false if it is already.
    pub(crate) fn insert(
        &mut self,
        table: &Range<u32>,
        members: &[Member<'_>],
        undistributed: u32,
        now: Instant,
    ) -> bool {
        let mut hasher = DefaultHasher::new();
        (table.end, members, undistributed).hash(&mut hasher);
        let of = hasher.finish();
        let before = self.0.get(&table.start);
        if before.is_some_and(|(same, at)| *same == of && now < *at + MAX_AGE) {
            return false;
        }
        self.0.insert(table.start, (of, now));
        true
    }

    /// Forgets all: tables are elsewhere now.
    pub(crate) fn clear(&mut self) {
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
    fn a_table_is_built_again_when_something_is_different_or_long_ago() {
        let (mut cache, now) = (BuildCache::default(), Instant::now());
        let (table, other) = (0..101, 101..202);
        assert!(cache.insert(&table, &members(1), 0, now));
        assert!(!cache.insert(&table, &members(1), 0, now + MAX_AGE / 2));
        assert!(cache.insert(&other, &members(1), 0, now));
        assert!(cache.insert(&table, &members(2), 0, now));
        assert!(cache.insert(&table, &members(1), 0, now));
        assert!(cache.insert(&table, &members(1), 1, now));
        assert!(cache.insert(&table, &members(1)[..1], 1, now));
        assert!(!cache.insert(&table, &members(1)[..1], 1, now));
        assert!(cache.insert(&table, &members(1)[..1], 1, now + MAX_AGE));
        cache.clear();
        assert!(cache.insert(&other, &members(1), 0, now));
    }
}
