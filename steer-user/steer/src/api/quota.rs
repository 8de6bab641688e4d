//! Connection limits per kind of peer and per peer, so that no peer keeps others out.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Peer that a connection counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// Root, or the daemon's own user.
    Root,
    /// A user with a role.
    User(u32),
    /// A user without a role, or one unknown to the kernel.
    Stranger(Option<u32>),
    /// A TCP client by address; for IPv6, by the first 64 bits.
    Address(u64),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "root"),
            Self::User(id) => write!(f, "user {id}"),
            Self::Stranger(Some(id)) => write!(f, "user {id} without a role"),
            Self::Stranger(None) => write!(f, "unknown user"),
            Self::Address(bits) => write!(f, "TCP client {bits:x}"),
        }
    }
}

/// Limits of connections for a kind of peers, and for each peer.
struct Bound {
    all: usize,
    each: usize,
}

impl Holder {
    /// Returns the index of the counter for this kind.
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
            // Strangers may only ask whether the daemon is alive.
            Self::Stranger(_) => (16, 4),
            Self::Address(_) => (64, 48),
        };
        Bound { all, each }
    }
}

/// Maximum number of open connections of all kinds, on a socket and two TCP addresses.
pub const MAX_CONNECTIONS: u64 = 256 + 64 + 16 + 2 * 64;

/// Open connections.
#[derive(Clone, Default)]
pub(super) struct ConnectionQuota(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    kinds: [usize; 4],
    holders: HashMap<Holder, usize>,
}

/// Permit for one connection, released when dropped.
pub(super) struct ConnectionPermit {
    quota: ConnectionQuota,
    holder: Holder,
}

impl ConnectionQuota {
    /// Returns a permit for one more connection of a peer, if its limits allow one.
    pub(super) fn admit(&self, holder: Holder) -> Option<ConnectionPermit> {
        let bound = holder.bound();
        let mut open = self.open();
        let all = open.kinds[holder.kind()];
        let own = open.holders.get(&holder).copied().unwrap_or(0);
        if all >= bound.all || own >= bound.each {
            return None;
        }
        open.kinds[holder.kind()] += 1;
        open.holders.insert(holder, own + 1);
        Some(ConnectionPermit {
            quota: self.clone(),
            holder,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // The counters are consistent after each change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
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

    /// Acquires as many permits as a peer gets.
    fn permits(quota: &ConnectionQuota, holder: Holder) -> Vec<ConnectionPermit> {
        std::iter::from_fn(|| quota.admit(holder)).collect()
    }

    #[test]
    fn nobody_keeps_others_out() {
        let quota = ConnectionQuota::default();
        let strangers: Vec<_> = (0..1000)
            .map(|uid| permits(&quota, Holder::Stranger(Some(uid))))
            .collect();
        let taken: usize = strangers.iter().map(Vec::len).sum();
        assert_eq!((taken, strangers[0].len()), (16, 4));
        let greedy = permits(&quota, Holder::User(7));
        assert_eq!(greedy.len(), 32);
        assert_eq!(permits(&quota, Holder::User(8)).len(), 32);
        let root = permits(&quota, Holder::Root);
        assert_eq!(root.len(), 256);
        assert_eq!(permits(&quota, Holder::Address(1)).len(), 48);
        drop(strangers);
        assert_eq!(permits(&quota, Holder::Stranger(None)).len(), 4);
        drop((greedy, root));
        assert!(quota.open().holders.is_empty());
        assert_eq!(quota.open().kinds, [0; 4]);
    }
}
