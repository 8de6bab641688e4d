//! How many connections are served at a time, and how many of them one peer may have: nobody keeps others out.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Who holds a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// Root, or the daemon's own user.
    Root,
    /// A user with a role.
    User(u32),
    /// A user without a role, or whom the kernel does not tell.
    Stranger(Option<u32>),
    /// Somebody by TCP, who is told apart by address: of IPv6, by its first 64 bits.
    Address(u64),
}

/// Connections of all of a kind, and of each.
struct Bound {
    all: usize,
    each: usize,
}

impl Holder {
    /// What connections of this kind are counted by.
    fn kind(self) -> usize {
        match self {
            Self::Root => 0,
            Self::User(_) => 1,
            Self::Stranger(_) => 2,
            Self::Address(_) => 3,
        }
    }

    fn bound(self) -> Bound {
        let (all, each) = match self {
            Self::Root => (256, 256),
            Self::User(_) => (64, 32),
            // They may ask whether the daemon lives, and that is all.
            Self::Stranger(_) => (16, 4),
            Self::Address(_) => (64, 48),
        };
        Bound { all, each }
    }
}

/// All connections that may be open at a time, of all kinds, at a socket and at two addresses of TCP.
pub const MAX_CONNECTIONS: u64 = 256 + 64 + 16 + 2 * 64;

/// Connections that are open.
#[derive(Clone, Default)]
pub(super) struct Quota(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    kinds: [usize; 4],
    holders: HashMap<Holder, usize>,
}

/// A connection's place; it is free again when the value is dropped.
pub(super) struct Place {
    quota: Quota,
    holder: Holder,
}

impl Quota {
    /// A place for one more connection of somebody, if there is one.
    pub(super) fn place(&self, holder: Holder) -> Option<Place> {
        let bound = holder.bound();
        let mut open = self.open();
        let all = open.kinds[holder.kind()];
        let own = open.holders.get(&holder).copied().unwrap_or(0);
        if all >= bound.all || own >= bound.each {
            return None;
        }
        open.kinds[holder.kind()] += 1;
        open.holders.insert(holder, own + 1);
        Some(Place {
            quota: self.clone(),
            holder,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Numbers are whole after each change of them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.quota.open();
        open.kinds[self.holder.kind()] -= 1;
        if let Some(own) = open.holders.get_mut(&self.holder) {
            *own -= 1;
            if *own == 0 {
                open.holders.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many places as somebody gets.
    fn places(quota: &Quota, holder: Holder) -> Vec<Place> {
        std::iter::from_fn(|| quota.place(holder)).collect()
    }

    #[test]
    fn nobody_keeps_others_out() {
        let quota = Quota::default();
        let strangers: Vec<_> = (0..1000)
            .map(|uid| places(&quota, Holder::Stranger(Some(uid))))
            .collect();
        let taken: usize = strangers.iter().map(Vec::len).sum();
        assert_eq!((taken, strangers[0].len()), (16, 4));
        let greedy = places(&quota, Holder::User(7));
        assert_eq!(greedy.len(), 32);
        assert_eq!(places(&quota, Holder::User(8)).len(), 32);
        let root = places(&quota, Holder::Root);
        assert_eq!(root.len(), 256);
        assert_eq!(places(&quota, Holder::Address(1)).len(), 48);
        drop(strangers);
        assert_eq!(places(&quota, Holder::Stranger(None)).len(), 4);
        drop((greedy, root));
        assert!(quota.open().holders.is_empty());
        assert_eq!(quota.open().kinds, [0; 4]);
    }
}
