//! Routes as the kernel reports them.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};

/// Least path MTU in bytes that is believed for the packet inside, if an ICMP error reported it: the least that
/// IPv6 links have (RFC 8200, section 5), below which senders need not go. Anyone who guesses the ports of a
/// probe can send such an error.
const MIN_LEARNED_MTU: u32 = 1280;

/// The kernel's route to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    interface: u32,
    /// Gateway, or the address itself.
    next_hop: IpAddr,
    /// Configured MTU in bytes.
    mtu: Option<u32>,
    /// Path MTU in bytes that ICMP errors reported to this host.
    learned_mtu: Option<u32>,
}

impl Route {
    /// Reads an answer of the kernel (`RTM_GETROUTE`).
    ///
    /// # Errors
    ///
    /// Returns an error if the route has no interface.
    pub(super) fn from_message(address: IpAddr, message: RouteMessage) -> Result<Self> {
        let (mut interface, mut next_hop, mut mtu) = (None, address, None);
        let mut is_learned = false;
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => interface = Some(index),
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => next_hop = address.into(),
                RouteAttribute::Gateway(RouteAddress::Inet6(address)) => next_hop = address.into(),
                RouteAttribute::Metrics(metrics) => mtu = mtu_metric(&metrics),
                // Only what was learned expires.
                RouteAttribute::CacheInfo(info) => is_learned = info.expires != 0,
                _ => (),
            }
        }
        let interface =
            interface.ok_or_else(|| anyhow!("{address}: its route has no interface"))?;
        let learned_mtu = if is_learned { mtu.take() } else { None };
        Ok(Self {
            interface,
            next_hop,
            mtu,
            learned_mtu,
        })
    }

    /// Sets the configured MTU from an answer with the route as it is configured (`RTM_F_FIB_MATCH`).
    #[must_use]
    pub(super) fn with_configured_mtu(mut self, configured: &RouteMessage) -> Self {
        self.mtu = configured
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Metrics(metrics) => mtu_metric(metrics),
                _ => None,
            });
        self
    }

    /// Returns whether the kernel has learned a path MTU, in which case its answer does not tell the
    /// configured one.
    pub(super) const fn has_learned_mtu(&self) -> bool {
        self.learned_mtu.is_some()
    }

    /// Returns the index of the outgoing interface.
    pub const fn interface(&self) -> u32 {
        self.interface
    }

    /// Returns the gateway, or the address itself.
    pub const fn next_hop(&self) -> IpAddr {
        self.next_hop
    }

    /// Returns the MTU in bytes of packets on this route, by a link with the given MTU. A learned path MTU
    /// counts for encapsulated packets, which have this host's address, with `overhead` bytes of outer headers.
    /// Errors about all others go to their senders, who adapt.
    pub(super) fn mtu(&self, link: u32, overhead: u32) -> u32 {
        let learned = self
            .learned_mtu
            .filter(|mtu| overhead > 0 && *mtu >= MIN_LEARNED_MTU + overhead);
        let limits = [self.mtu, learned];
        limits.into_iter().flatten().fold(link, u32::min)
    }
}

fn mtu_metric(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rtnetlink::packet_core::Parseable as _;
    use rtnetlink::packet_route::route::{RouteCacheInfo, RouteCacheInfoBuffer};

    use super::*;

    fn message(mtu: u32, expires: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        let mut bytes = [0; 32];
        // The third of eight words.
        bytes[8..12].copy_from_slice(&u32::to_ne_bytes(expires));
        let info = RouteCacheInfoBuffer::new_checked(&bytes).unwrap();
        let info = RouteCacheInfo::parse(&info).unwrap();
        message.attributes = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]),
            RouteAttribute::CacheInfo(info),
        ];
        message
    }

    #[test]
    fn a_learned_mtu_counts_for_encapsulated_packets_and_within_bounds() {
        let address = Ipv4Addr::new(10, 0, 0, 1).into();
        let route = |mtu, expires| Route::from_message(address, message(mtu, expires)).unwrap();
        let configured = route(1400, 0);
        assert!(!configured.has_learned_mtu());
        assert_eq!(configured.mtu(1500, 0), 1400);
        assert_eq!(configured.mtu(1300, 20), 1300);
        let learned = route(1350, 60_000);
        assert!(learned.has_learned_mtu());
        assert_eq!(learned.mtu(1500, 20), 1350);
        assert_eq!(learned.mtu(1500, 0), 1500);
        let learned = learned.with_configured_mtu(&message(1450, 0));
        assert_eq!(learned.mtu(1500, 0), 1450);
        assert_eq!(learned.mtu(1500, 20), 1350);
        for forged in [600, 1280, 1299] {
            assert_eq!(route(forged, 60_000).mtu(1500, 20), 1500);
        }
        assert_eq!(route(1300, 60_000).mtu(1500, 20), 1300);
        let mut without = message(1500, 0);
        without.attributes.remove(0);
        assert!(Route::from_message(address, without).is_err());
    }
}
