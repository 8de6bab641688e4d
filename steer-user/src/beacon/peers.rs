//! Who may have how many connections, and who has to prove its address first.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// More connections than any fleet of nodes needs; the rest is refused.
const MAX_CONNECTIONS: usize = 1024;
/// While so many handshakes are under way, a client must first prove its address: each costs
/// signatures, and sends up to three times what the client sent (RFC 9000, section 8.1).
const UNPROVED_HANDSHAKES: usize = 16;
/// So many nodes may share an address, as behind a NAT.
const NODES_PER_ADDRESS: usize = 8;
/// Pings of one connection that are answered within a second.
const PINGS: u32 = 1000;

/// What to do with one who knocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Knock {
    /// Let the handshake begin.
    Welcome,
    /// It has to prove its address first.
    Prove,
    /// There are enough.
    Refuse,
}

#[derive(Debug, Default)]
struct Counts {
    handshakes: usize,
    connections: usize,
    addresses: HashMap<IpAddr, usize>,
    /// Connections of nodes, the oldest first.
    nodes: HashMap<String, VecDeque<Own>>,
    /// The number of the next one.
    next: u64,
}

/// A connection of a node.
struct Own {
    number: u64,
    close: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Own({})", self.number)
    }
}

/// The connections that there are.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    per_node: usize,
    counts: Arc<Mutex<Counts>>,
}

/// A place among them; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    peers: Peers,
    address: IpAddr,
    /// Whose it is, and its number among all.
    node: Option<(String, u64)>,
}

impl Peers {
    /// Each node may have so many connections.
    pub(super) fn new(per_node: usize) -> Self {
        Self {
            per_node: per_node.max(1),
            counts: Arc::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do with one from `address`, which it has proved or not.
    pub(super) fn knock(&self, address: IpAddr, proved: bool) -> Knock {
        let counts = self.counts();
        let there = counts.addresses.get(&address).copied().unwrap_or(0);
        if counts.connections >= MAX_CONNECTIONS {
            Knock::Refuse
        } else if !proved && counts.handshakes >= UNPROVED_HANDSHAKES {
            Knock::Prove
        } else if there >= self.per_node * NODES_PER_ADDRESS {
            Knock::Refuse
        } else {
            Knock::Welcome
        }
    }

    /// A place for a handshake that begins.
    pub(super) fn enter(&self, address: IpAddr) -> Place {
        let mut counts = self.counts();
        counts.handshakes += 1;
        counts.connections += 1;
        *counts.addresses.entry(address).or_default() += 1;
        drop(counts);
        Place {
            peers: self.clone(),
            address,
            node: None,
        }
    }
}

impl Place {
    /// The handshake is done, with that node. If it has enough connections, the oldest of them is closed by what it
    /// gave for that: a daemon that was killed leaves ones that nobody closes. Says whether one was closed.
    pub(super) fn is(&mut self, node: &str, close: impl FnOnce() + Send + 'static) -> bool {
        let mut counts = self.peers.counts();
        let number = counts.next;
        counts.next += 1;
        counts.handshakes -= 1;
        let own = counts.nodes.entry(node.to_owned()).or_default();
        let oldest = if own.len() >= self.peers.per_node {
            own.pop_front()
        } else {
            None
        };
        own.push_back(Own {
            number,
            close: Box::new(close),
        });
        drop(counts);
        self.node = Some((node.to_owned(), number));
        let Some(oldest) = oldest else {
            return false;
        };
        (oldest.close)();
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.counts();
        counts.connections -= 1;
        leave(&mut counts.addresses, &self.address);
        let Some((node, number)) = &self.node else {
            counts.handshakes -= 1;
            return;
        };
        if let Some(own) = counts.nodes.get_mut(node) {
            // It is not there any more if a younger one took its place.
            own.retain(|own| own.number != *number);
            if own.is_empty() {
                counts.nodes.remove(node);
            }
        }
    }
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// How often one connection may ping.
#[derive(Debug)]
pub(super) struct Pings {
    since: Instant,
    count: u32,
}

impl Pings {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
        }
    }

    /// Whether a ping is to be answered.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.count = self.count.saturating_add(1);
        self.count <= PINGS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn under_load_addresses_have_to_be_proved() {
        let peers = Peers::new(100);
        let mut places: Vec<Place> = (0..16).map(|_| peers.enter(address(1))).collect();
        assert_eq!(peers.knock(address(2), false), Knock::Prove);
        assert_eq!(peers.knock(address(2), true), Knock::Welcome);
        assert!(!places[0].is("n1", || ()), "nobody has to make room");
        // It is no handshake any more.
        assert_eq!(peers.knock(address(2), false), Knock::Welcome);
    }

    #[test]
    fn an_address_has_so_many_and_gives_them_back() {
        let peers = Peers::new(2);
        let mut places: Vec<Place> = (0..16).map(|_| peers.enter(address(1))).collect();
        assert_eq!(peers.knock(address(1), true), Knock::Refuse);
        assert_eq!(peers.knock(address(2), true), Knock::Welcome);
        places[4].is("n2", || ());
        drop(places);
        let counts = peers.counts();
        assert_eq!((counts.connections, counts.handshakes), (0, 0));
        assert!(counts.addresses.is_empty() && counts.nodes.is_empty());
    }

    #[test]
    fn of_a_node_with_enough_connections_the_oldest_is_closed() {
        let peers = Peers::new(2);
        let closed = Arc::new(Mutex::new(Vec::new()));
        let enter = |node: &str, number: u32| {
            let mut place = peers.enter(address(1));
            let closed = Arc::clone(&closed);
            place.is(node, move || closed.lock().unwrap().push(number));
            place
        };
        let first = enter("n1", 1);
        let second = enter("n1", 2);
        let other = enter("n2", 3);
        assert_eq!(*closed.lock().unwrap(), [0_u32; 0]);
        let third = enter("n1", 4);
        assert_eq!(*closed.lock().unwrap(), [1]);
        // What was closed goes when it has noticed, and takes no place with it.
        drop(first);
        let fourth = enter("n1", 5);
        assert_eq!(*closed.lock().unwrap(), [1, 2]);
        drop(third);
        let fifth = enter("n1", 6);
        assert_eq!(*closed.lock().unwrap(), [1, 2]);
        drop((second, other, fourth, fifth));
        assert!(peers.counts().nodes.is_empty());
    }

    #[test]
    fn there_is_an_end_of_connections() {
        let peers = Peers::new(1000);
        let places: Vec<Place> = (0..1024).map(|_| peers.enter(address(1))).collect();
        assert_eq!(peers.knock(address(2), true), Knock::Refuse);
        drop(places);
        assert_eq!(peers.knock(address(2), false), Knock::Welcome);
    }

    #[test]
    fn pings_have_a_rate() {
        let start = Instant::now();
        let mut pings = Pings::new(start);
        let answered = (0..3000).filter(|_| pings.allow(start)).count();
        assert_eq!(answered, 1000);
        assert!(pings.allow(start + Duration::from_secs(1)));
    }
}
