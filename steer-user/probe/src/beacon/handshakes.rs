//! QUIC handshakes in progress, of any client.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Maximum number of concurrent handshakes. One more ends the oldest: those of nodes take
/// milliseconds.
const MAX_HANDSHAKES: usize = 256;
/// Maximum number of concurrent handshakes of one address, or of one IPv6 /64. One more ends the
/// oldest of them, so that a client with some addresses cannot occupy all slots.
const MAX_PER_SOURCE: usize = 32;

/// Handshakes in progress.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Handshakes by number, oldest first.
    open: BTreeMap<u64, Open>,
    next: u64,
}

#[derive(Debug)]
struct Open {
    source: IpAddr,
    /// Handle that ends it when dropped.
    _end: End,
}

/// Handle that ends a handshake when dropped.
pub(super) type End = tokio::sync::oneshot::Sender<std::convert::Infallible>;

impl Handshakes {
    /// Adds a handshake, and ends another one if there are too many. Returns its number.
    pub(super) fn add(&mut self, address: IpAddr, end: End) -> u64 {
        let source = source(address);
        let mut own = self.open.iter().filter(|(_, open)| open.source == source);
        let oldest = own.next().map(|(number, _)| *number);
        // The oldest one has been removed already.
        let own = usize::from(oldest.is_some()) + own.count();
        if own >= MAX_PER_SOURCE {
            self.open.remove(&oldest.unwrap_or_default());
        } else if self.open.len() >= MAX_HANDSHAKES {
            self.open.pop_first();
        }
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Open { source, _end: end });
        number
    }

    /// Removes a handshake that is over for any reason.
    pub(super) fn remove(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Returns the number of handshakes.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}

/// Returns the prefix that one client probably owns entirely.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{Receiver, channel, error::TryRecvError};

    use super::*;

    fn add(handshakes: &mut Handshakes, address: IpAddr) -> Receiver<std::convert::Infallible> {
        let (end, ended) = channel();
        handshakes.add(address, end);
        ended
    }

    fn is_ended(ended: &mut Receiver<std::convert::Infallible>) -> bool {
        ended.try_recv() == Err(TryRecvError::Closed)
    }

    #[test]
    fn an_address_that_holds_many_loses_its_own_oldest() {
        let mut handshakes = Handshakes::default();
        let mut other = add(&mut handshakes, [192, 0, 2, 1].into());
        let mut own: Vec<_> = (0..40)
            .map(|_| add(&mut handshakes, [192, 0, 2, 2].into()))
            .collect();
        assert!(!is_ended(&mut other));
        let ended = own.iter_mut().map(is_ended).collect::<Vec<_>>();
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 8);
        assert!(ended[..8].iter().all(|ended| *ended));
    }

    #[test]
    fn many_addresses_push_out_the_oldest_of_all() {
        let mut handshakes = Handshakes::default();
        let mut all: Vec<_> = (0..1100_u32)
            .map(|n| add(&mut handshakes, IpAddr::V4((0x0a00_0000 + n).into())))
            .collect();
        assert_eq!(handshakes.len(), MAX_HANDSHAKES);
        let ended = all.iter_mut().filter_map(|one| is_ended(one).then_some(()));
        assert_eq!(ended.count(), 1100 - MAX_HANDSHAKES);
        assert!(!is_ended(all.last_mut().unwrap()));
    }

    #[test]
    fn the_addresses_of_a_64_are_one_source() {
        let mut handshakes = Handshakes::default();
        let v6 = |n: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, n, 0, 0, n));
        let mut first = add(&mut handshakes, v6(0));
        for n in 1..=MAX_PER_SOURCE as u16 {
            add(&mut handshakes, v6(n));
        }
        assert!(is_ended(&mut first));
        // The same address in another notation.
        assert_eq!(
            source("::ffff:192.0.2.1".parse().unwrap()),
            IpAddr::from([192, 0, 2, 1])
        );
    }
}
