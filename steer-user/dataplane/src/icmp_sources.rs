//! Source addresses of ICMP errors by incoming link, so that traceroute shows this node for packets
//! that end here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use steer_common::abi::{IcmpSource, LinkKey};

use super::{
    KernelMaps,
    links::{Link, links},
};

/// Synchronizes the addresses with the kernel map.
#[derive(Debug, Default)]
pub struct IcmpSources {
    /// Inputs of the last synchronization: interfaces, their indexes, and the addresses.
    made_of: Option<(Vec<String>, Vec<Option<u32>>, Addresses)>,
}

/// Addresses by interface name.
type Addresses = BTreeMap<String, Vec<IpAddr>>;

impl IcmpSources {
    /// Writes the addresses of the interfaces with the program, if anything changed. Addresses of
    /// services do not count as this node's own.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not list the addresses, or refuses an entry.
    pub fn refresh(
        &mut self,
        maps: &mut KernelMaps,
        interfaces: &[String],
        services: &BTreeSet<IpAddr>,
    ) -> Result<()> {
        let indexes = interfaces
            .iter()
            .map(|name| super::interface_index(name).ok());
        let made_of = (interfaces.to_vec(), indexes.collect(), addresses()?);
        if self.made_of.as_ref() == Some(&made_of) {
            return Ok(());
        }
        let sources = sources(interfaces, &links()?, &made_of.2, services);
        maps.set_icmp_sources(&sources)?;
        self.made_of = Some(made_of);
        Ok(())
    }
}

/// Returns the source addresses of ICMP errors by incoming link: those of the interface or of its
/// VLAN device, or else another address of this host.
fn sources(
    interfaces: &[String],
    links: &[Link],
    addresses: &Addresses,
    services: &BTreeSet<IpAddr>,
) -> HashMap<LinkKey, IcmpSource> {
    let of_host = || addresses.values().flatten();
    let best = |name: &str| {
        let own = addresses.get(name).into_iter().flatten();
        pick(own.chain(of_host()), services)
    };
    let mut found = HashMap::new();
    for link in links.iter().filter(|link| interfaces.contains(&link.name)) {
        let ports = links
            .iter()
            .filter(|port| port.controller == Some(link.index));
        let indexes: Vec<u32> = [link.index]
            .into_iter()
            .chain(ports.map(|port| port.index))
            .collect();
        let tagged = links.iter().filter_map(|device| match device.vlan {
            Some((below, vlan)) if below == link.index => Some((vlan, device)),
            _ => None,
        });
        for (vlan, device) in [(0, link)].into_iter().chain(tagged) {
            let source = best(&device.name);
            for interface in &indexes {
                let key = LinkKey {
                    interface: *interface,
                    vlan,
                    _pad: 0,
                };
                found.insert(key, source);
            }
        }
    }
    found
}

/// Returns the first address of each family that others can reply to; link-local ones come last.
fn pick<'a>(
    addresses: impl Iterator<Item = &'a IpAddr> + Clone,
    services: &BTreeSet<IpAddr>,
) -> IcmpSource {
    let own = addresses.filter(|address| {
        !address.is_loopback() && !address.is_multicast() && !services.contains(address)
    });
    let v4 = own.clone().find(|address| address.is_ipv4());
    let is_global = |address: &&IpAddr| match address {
        IpAddr::V6(address) => !address.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    let mut six = own.clone().filter(|address| address.is_ipv6());
    let v6 = own.clone().find(is_global).or_else(|| six.next());
    let address = |found: Option<&IpAddr>| found.map_or_else(Default::default, |a| (*a).into());
    IcmpSource {
        v4: address(v4),
        v6: address(v6),
    }
}

fn addresses() -> Result<Addresses> {
    let mut found = Addresses::new();
    for entry in getifaddrs().context("the addresses of interfaces")? {
        let Some(address) = entry.address else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        let address = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())));
        let of_interface = found.entry(entry.interface_name).or_default();
        of_interface.extend(address);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            ..Link::default()
        }
    }

    fn parsed(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_link_answers_from_its_own_address_and_from_no_service() {
        let port = Link {
            controller: Some(4),
            ..link(5, "eth1")
        };
        let tagged = Link {
            vlan: Some((4, 30)),
            ..link(6, "bond0.30")
        };
        let links = [
            link(1, "lo"),
            link(3, "eth0"),
            link(4, "bond0"),
            port,
            tagged,
            link(9, "other"),
        ];
        let addresses: Addresses = [
            ("lo", &["127.0.0.1", "::1", "192.0.2.80", "10.8.0.1"][..]),
            ("eth0", &["192.0.2.81", "10.1.0.1", "fe80::1", "fd01::1"]),
            ("bond0", &["fe80::4"]),
            ("bond0.30", &["10.30.0.1"]),
        ]
        .into_iter()
        .map(|(name, texts)| (name.to_owned(), parsed(texts)))
        .collect();
        let services = parsed(&["192.0.2.80", "192.0.2.81"]).into_iter().collect();
        let names = ["eth0".to_owned(), "bond0".to_owned()];
        let found = sources(&names, &links, &addresses, &services);
        let of = |interface, vlan| {
            let key = LinkKey {
                interface,
                vlan,
                _pad: 0,
            };
            let source = found[&key];
            [source.v4, source.v6].map(|address| address.to_ip().to_string())
        };
        assert_eq!(of(3, 0), ["10.1.0.1", "fd01::1"]);
        // The device has only a link-local address, so other addresses of the host serve.
        assert_eq!(of(4, 0), ["10.30.0.1", "fd01::1"]);
        assert_eq!(of(5, 0), of(4, 0));
        assert_eq!(of(4, 30), ["10.30.0.1", "fd01::1"]);
        assert_eq!(of(5, 30), of(4, 30));
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn a_host_without_an_address_answers_from_none() {
        let found = sources(
            &["eth0".to_owned()],
            &[link(3, "eth0")],
            &Addresses::new(),
            &BTreeSet::new(),
        );
        let key = LinkKey {
            interface: 3,
            ..LinkKey::default()
        };
        assert_eq!(found[&key].address(false), None);
        assert_eq!(found[&key].address(true), None);
    }
}
