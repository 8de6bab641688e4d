//! Connections to a beacon, limited per node.
//!
//! Handshakes of anyone and connections of nodes, which have shown a certificate, are counted
//! separately: the former cannot displace the latter.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::handshakes::{End, Handshakes};

/// Maximum number of connections, above the need of any fleet. One more closes the oldest of the
/// node that has most.
const MAX_CONNECTIONS: usize = 1024;
/// Maximum number of pings answered per second on one connection.
const MAX_PINGS_PER_SECOND: u32 = 1000;

#[derive(Debug, Default)]
struct Counts {
    handshakes: Handshakes,
    connections: usize,
    /// Connections of nodes, oldest first.
    nodes: HashMap<String, VecDeque<OpenConnection>>,
    /// Number of the next connection.
    next: u64,
}

/// A connection of a node.
struct OpenConnection {
    number: u64,
    close: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Own({})", self.number)
    }
}

/// All connections.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    per_node: usize,
    counts: Arc<Mutex<Counts>>,
}

/// A slot for a connection, released when dropped.
#[derive(Debug)]
pub(super) struct PeerSlot {
    peers: Peers,
    holder: Holder,
}

/// Owner of a slot.
#[derive(Debug)]
enum Holder {
    /// A handshake, by its number.
    Handshake(u64),
    /// A node, with the number of its connection.
    Node(String, u64),
}

impl Peers {
    /// Creates the registry with a limit per node.
    pub(super) fn new(per_node: usize) -> Self {
        Self {
            per_node: per_node.max(1),
            counts: Arc::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns a slot to a new handshake. `end` is dropped if the handshake must yield to newer
    /// ones.
    pub(super) fn admit(&self, address: IpAddr, end: End) -> PeerSlot {
        let number = self.counts().handshakes.add(address, end);
        PeerSlot {
            peers: self.clone(),
            holder: Holder::Handshake(number),
        }
    }
}

impl Counts {
    /// Returns the connection to close for one more of a node, if necessary.
    fn evict(&mut self, node: &str, per_node: usize) -> Option<OpenConnection> {
        let own = self.nodes.get_mut(node);
        if let Some(own) = own
            && own.len() >= per_node
        {
            return own.pop_front();
        }
        if self.connections < MAX_CONNECTIONS {
            return None;
        }
        let most = self.nodes.values_mut().max_by_key(|own| own.len());
        most?.pop_front()
    }
}

impl PeerSlot {
    /// Records that the handshake is complete, with a node. If the node has too many connections,
    /// the oldest of them is closed by its `close`: a killed daemon leaves connections that nobody
    /// closes. Returns whether one was closed.
    pub(super) fn is(&mut self, node: &str, close: impl FnOnce() + Send + 'static) -> bool {
        let mut counts = self.peers.counts();
        if let Holder::Handshake(number) = self.holder {
            counts.handshakes.remove(number);
        }
        let oldest = counts.evict(node, self.peers.per_node);
        let number = counts.next;
        counts.next += 1;
        counts.connections += 1;
        counts
            .nodes
            .entry(node.to_owned())
            .or_default()
            .push_back(OpenConnection {
                number,
                close: Box::new(close),
            });
        drop(counts);
        self.holder = Holder::Node(node.to_owned(), number);
        let Some(oldest) = oldest else {
            return false;
        };
        (oldest.close)();
        true
    }
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut counts = self.peers.counts();
        let (node, number) = match &self.holder {
            Holder::Handshake(number) => return counts.handshakes.remove(*number),
            Holder::Node(node, number) => (node, number),
        };
        counts.connections -= 1;
        if let Some(own) = counts.nodes.get_mut(node) {
            // It may have been replaced by a newer one.
            own.retain(|own| own.number != *number);
            if own.is_empty() {
                counts.nodes.remove(node);
            }
        }
    }
}

/// Rate limit of pings on one connection.
#[derive(Debug)]
pub(super) struct PingRate {
    since: Instant,
    count: u32,
}

impl PingRate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
        }
    }

    /// Returns whether a ping is answered.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.count = self.count.saturating_add(1);
        self.count <= MAX_PINGS_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(peers: &Peers, last: u8) -> PeerSlot {
        let (end, _) = tokio::sync::oneshot::channel();
        peers.admit([192, 0, 2, last].into(), end)
    }

    #[test]
    fn of_a_node_with_enough_connections_the_oldest_is_closed() {
        let peers = Peers::new(2);
        let closed = Arc::new(Mutex::new(Vec::new()));
        let enter = |node: &str, number: u32| {
            let mut place = enter(&peers, 1);
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
        // A closed connection ends once it notices, and releases no other slot.
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
    fn places_of_nodes_are_not_those_of_handshakes() {
        let peers = Peers::new(10);
        let handshakes: Vec<PeerSlot> = (0..2000).map(|n| enter(&peers, (n % 250) as u8)).collect();
        let mut place = enter(&peers, 251);
        assert!(!place.is("n1", || ()), "nobody has to make room");
        drop(handshakes);
        assert_eq!(peers.counts().handshakes.len(), 0);
        assert_eq!(peers.counts().connections, 1);
        drop(place);
        assert_eq!(peers.counts().connections, 0);
    }

    #[test]
    fn where_there_are_too_many_the_node_with_most_makes_room() {
        let peers = Peers::new(1020);
        let closed = Arc::new(Mutex::new(0));
        let mut places: Vec<PeerSlot> = (0..MAX_CONNECTIONS)
            .map(|n| {
                let mut place = enter(&peers, 1);
                let node = if n < 4 { "few" } else { "many" };
                let counted = Arc::clone(&closed);
                let is_many = node == "many";
                place.is(node, move || *counted.lock().unwrap() += u32::from(is_many));
                place
            })
            .collect();
        assert_eq!(*closed.lock().unwrap(), 0);
        let mut place = enter(&peers, 2);
        assert!(place.is("new", || ()));
        assert_eq!(*closed.lock().unwrap(), 1);
        places.push(place);
    }

    #[test]
    fn pings_have_a_rate() {
        let start = Instant::now();
        let mut pings = PingRate::new(start);
        let answered = (0..3000).filter(|_| pings.allow(start)).count();
        assert_eq!(answered, 1000);
        assert!(pings.allow(start + Duration::from_secs(1)));
    }
}
