//! Gateways of this host's routes, with the paths of frames from and to them.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use steer_common::abi::{ClientNextHop, Mac, Macs, RouterKey, mac_word};

use super::{
    Neighbours,
    links::{self, Link},
};

/// Ethertype of a VLAN tag.
const VLAN: [u8; 2] = [0x81, 0];
/// Routing table of this host's own addresses: `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u32 = 255;
/// Upper bound of routes per family; beyond it, routes with the longest prefixes are dropped.
const MAX_ROUTES: usize = 8192;

/// A router used by routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gateway {
    /// Interface of its routes.
    pub interface: u32,
    /// IP address.
    pub address: IpAddr,
}

/// Destination of a route: prefix length, address, and routing table. Short prefixes sort first.
pub type Prefix = (u8, IpAddr, u32);

/// Source of frames from a router, and the path back to it.
pub type Path = (RouterKey, ClientNextHop);

impl Neighbours {
    /// Returns the gateways of the best routes to each prefix.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub async fn gateways(&self) -> Result<BTreeMap<Prefix, Vec<Gateway>>> {
        let mut found = BTreeMap::new();
        let requests = [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ];
        for mut request in requests {
            // The request must specify nothing but the address family.
            request.attributes.clear();
            request.header.table = 0;
            let mut best: BTreeMap<Prefix, (u32, Vec<Gateway>)> = BTreeMap::new();
            let mut all = self.handle().route().get(request).execute();
            while let Some(message) = all.try_next().await.context("the kernel's routes")? {
                let Some((prefix, metric, gateways)) = read(&message) else {
                    continue;
                };
                match best.get_mut(&prefix) {
                    // IPv6 routes over several gateways arrive one by one.
                    Some((least, known)) if *least == metric => known.extend(gateways),
                    Some((least, _)) if *least < metric => {}
                    _ => drop(best.insert(prefix, (metric, gateways))),
                }
                if best.len() > MAX_ROUTES {
                    best.pop_last();
                }
            }
            let routes = best.into_iter();
            found.extend(routes.map(|(prefix, (_, gateways))| (prefix, gateways)));
        }
        Ok(found)
    }

    /// Returns the paths to gateways with a known MAC address; `attached` are the indexes of
    /// interfaces with the program. The kernel is asked to resolve the others.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub async fn paths(
        &self,
        gateways: impl Iterator<Item = Gateway>,
        attached: &[u32],
    ) -> Result<BTreeMap<Gateway, Vec<Path>>> {
        let macs = self.macs().await?;
        let all = links::list(self.handle()).await?;
        let links: HashMap<u32, Link> = all.into_iter().map(|link| (link.index, link)).collect();
        let mut found = BTreeMap::new();
        for gateway in gateways {
            let ports = ports(gateway.interface, &links, attached);
            if ports.is_empty() {
                continue;
            }
            let Some(mac) = macs.get(&(gateway.interface, gateway.address)) else {
                super::neighbours::solicit(gateway.address, gateway.interface);
                continue;
            };
            let own = links.get(&gateway.interface).and_then(|link| link.mac);
            let family = if gateway.address.is_ipv4() { 4 } else { 6 };
            let paths = ports.into_iter().map(|(port, vlan)| {
                let key = RouterKey::new(port, vlan, family, mac_word(*mac));
                (key, back(port, vlan, *mac, own.unwrap_or_default()))
            });
            found.insert(gateway, paths.collect());
        }
        Ok(found)
    }
}

fn back(interface: u32, vlan: u16, destination: Mac, own: Mac) -> ClientNextHop {
    let [high, low] = vlan.to_be_bytes();
    let (tags, tags_len) = if vlan == 0 {
        (0, 0)
    } else {
        let tag = [VLAN[0], VLAN[1], high, low, 0, 0, 0, 0];
        (u64::from_ne_bytes(tag), 4)
    };
    ClientNextHop {
        macs: Macs::new(destination, own),
        tags,
        interface,
        tags_len,
    }
}

/// Returns the interfaces through which packets of another one arrive, with their VLAN there. Empty
/// if the program does not see them.
fn ports(interface: u32, links: &HashMap<u32, Link>, attached: &[u32]) -> Vec<(u32, u16)> {
    let members = || {
        let of = links.values().filter(|l| l.controller == Some(interface));
        let mut indexes: Vec<u32> = of.map(|link| link.index).collect();
        indexes.sort_unstable();
        indexes
    };
    let Some(link) = links.get(&interface) else {
        return Vec::new();
    };
    if attached.contains(&interface) {
        let below = if link.is_bond { members() } else { Vec::new() };
        let all = [interface].into_iter().chain(below);
        return all.map(|index| (index, 0)).collect();
    }
    if let Some((below, vlan)) = link.vlan {
        // A second tag is not supported.
        let untagged = ports(below, links, attached).into_iter();
        let untagged = untagged.filter(|(_, outer)| *outer == 0);
        return untagged.map(|(port, _)| (port, vlan)).collect();
    }
    if let Some(below) = link.below {
        return ports(below, links, attached);
    }
    let members = members().into_iter().filter(|at| attached.contains(at));
    members.map(|index| (index, 0)).collect()
}

/// Returns a route's prefix, metric and gateways; `None` for a route without gateways.
fn read(route: &RouteMessage) -> Option<(Prefix, u32, Vec<Gateway>)> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut address = None;
    let mut table = u32::from(route.header.table);
    let (mut metric, mut gateways) = (0, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(to) => address = ip(to),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::MultiPath(hops) => {
                let of = hops.iter();
                gateways.extend(
                    of.filter_map(|hop| gateway(&hop.attributes, Some(hop.interface_index))),
                );
            }
            _ => {}
        }
    }
    gateways.extend(gateway(&route.attributes, None));
    if gateways.is_empty() || table == LOCAL_TABLE {
        return None;
    }
    let any: IpAddr = match route.header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let len = route.header.destination_prefix_length;
    Some(((len, address.unwrap_or(any), table), metric, gateways))
}

/// Returns the gateway in a list of attributes; `interface` is that of one hop of a multipath
/// route.
fn gateway(attributes: &[RouteAttribute], interface: Option<u32>) -> Option<Gateway> {
    let (mut address, mut interface) = (None, interface);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(to) => address = ip(to),
            RouteAttribute::Via(RouteVia::Inet(to)) => address = Some((*to).into()),
            RouteAttribute::Via(RouteVia::Inet6(to)) => address = Some((*to).into()),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    Some(Gateway {
        interface: interface?,
        address: address?,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32) -> (u32, Link) {
        let link = Link {
            index,
            ..Link::default()
        };
        (index, link)
    }

    #[test]
    fn packets_from_behind_a_device_come_in_by_those_below() {
        let mut links: HashMap<u32, Link> = (1..=9).map(link).collect();
        let mut set = |index, change: fn(&mut Link)| change(links.get_mut(&index).unwrap());
        // 2 is a VLAN on 1, and 3 is a macvlan on 2.
        set(2, |l| (l.below, l.vlan) = (Some(1), Some((1, 30))));
        set(3, |l| l.below = Some(2));
        // 4 is a bond of 5 and 6, and 7 is a bridge with port 8.
        set(4, |l| l.is_bond = true);
        set(5, |l| l.controller = Some(4));
        set(6, |l| l.controller = Some(4));
        set(8, |l| l.controller = Some(7));
        let of = |interface, attached: &[u32]| ports(interface, &links, attached);
        assert_eq!(of(1, &[1]), [(1, 0)]);
        assert_eq!(of(2, &[1]), [(1, 30)]);
        assert_eq!(of(2, &[1, 2]), [(2, 0)]);
        assert_eq!(of(3, &[1]), [(1, 30)]);
        assert_eq!(of(4, &[4]), [(4, 0), (5, 0), (6, 0)]);
        assert_eq!(of(4, &[6]), [(6, 0)]);
        assert_eq!(of(7, &[8]), [(8, 0)]);
        assert_eq!(of(9, &[1]), []);
        assert_eq!(of(10, &[10]), []);
    }

    #[test]
    fn a_way_has_the_tag_as_it_lies_in_frames() {
        let way = back(3, 0x123, [2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        assert_eq!(way.tags.to_ne_bytes(), [0x81, 0, 1, 0x23, 0, 0, 0, 0]);
        assert_eq!((way.tag_bytes(), way.interface), (4, 3));
        assert_eq!(back(3, 0, [2, 0, 0, 0, 0, 1], [0; 6]).tag_bytes(), 0);
    }

    #[test]
    fn routes_without_a_gateway_and_those_of_addresses_are_none() {
        let hop = |to: [u8; 4]| RouteAttribute::Gateway(RouteAddress::Inet(to.into()));
        let mut route = RouteMessage::default();
        route.header.address_family = rtnetlink::packet_route::AddressFamily::Inet;
        route.header.kind = RouteType::Unicast;
        route.header.table = 254;
        route.attributes = vec![RouteAttribute::Oif(3)];
        assert_eq!(read(&route), None);
        route.attributes.push(hop([10, 0, 0, 1]));
        route.attributes.push(RouteAttribute::Priority(100));
        let gateway = Gateway {
            interface: 3,
            address: "10.0.0.1".parse().unwrap(),
        };
        let any = "0.0.0.0".parse().unwrap();
        assert_eq!(read(&route), Some(((0, any, 254), 100, vec![gateway])));
        route.header.kind = RouteType::Local;
        assert_eq!(read(&route), None);
    }
}
