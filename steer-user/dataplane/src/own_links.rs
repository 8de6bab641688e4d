//! Properties of this node's interfaces that packets need: own MAC addresses, and the MTU of each
//! interface.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use steer_common::abi::{Interface, Mac};
use steer_core::dataplane::Dataplane;
use tracing::info;

use super::links::{Link, links};

/// Age at which the list of interfaces is refreshed without an event, because events may be lost.
const MAX_AGE: Duration = Duration::from_secs(10);

/// Filter of frames by destination MAC address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameFilter {
    /// Names of the interfaces with the program.
    pub interfaces: Vec<String>,
    /// Additional MAC addresses that no interface has.
    pub macs: Vec<Mac>,
    /// Whether frames for any address are accepted.
    pub accepts_any: bool,
}

/// Synchronizes MAC addresses and interface properties with the kernel maps.
#[derive(Debug, Default)]
pub struct OwnLinks {
    /// Last filter applied, with the number of the last event and the time.
    applied: Option<(FrameFilter, u64, Instant)>,
    /// MAC addresses written last.
    macs: Option<BTreeSet<Mac>>,
}

impl OwnLinks {
    /// Updates the kernel maps if anything may have changed: `event` counts events of interfaces.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not list the interfaces, or there are too many
    /// addresses. In the second case, frames for any address are accepted.
    pub fn refresh(
        &mut self,
        dataplane: &mut impl Dataplane,
        filter: &FrameFilter,
        event: u64,
    ) -> Result<()> {
        let is_current = self.applied.as_ref().is_some_and(|(applied, at, when)| {
            applied == filter && *at == event && when.elapsed() < MAX_AGE
        });
        if is_current {
            return Ok(());
        }
        let links = match links() {
            Ok(links) => links,
            Err(error) if self.applied.is_none() => {
                // Without a list of its own addresses, the node would accept no frame at all.
                dataplane.set_node_macs(None)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        self.applied = Some((filter.clone(), event, Instant::now()));
        dataplane.set_interfaces(&interfaces(filter, &links));
        let macs = (!filter.accepts_any).then(|| own_macs(filter, &links));
        let listed = macs.as_ref().map(|macs| macs.iter().copied().collect());
        let listed: Option<Vec<Mac>> = listed;
        dataplane
            .set_node_macs(listed.as_deref())
            .context("frames for any address are accepted")?;
        if self.macs != macs {
            match &macs {
                Some(macs) => info!(macs = text(macs), "frames for these addresses are steered"),
                None => {
                    info!("frames for any address are steered, as configured by `accept_any_mac`")
                }
            }
            self.macs = macs;
        }
        Ok(())
    }
}

/// Formats a MAC address.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn text(macs: &BTreeSet<Mac>) -> String {
    let all: Vec<String> = macs.iter().copied().map(mac_text).collect();
    all.join(" ")
}

/// Returns the interfaces with the program, including the ports of bonds, on which packets arrive.
fn attached<'a>(filter: &FrameFilter, links: &'a [Link]) -> Vec<&'a Link> {
    let named = |link: &&Link| filter.interfaces.contains(&link.name);
    let own: Vec<&Link> = links.iter().filter(named).collect();
    let is_port = |link: &&Link| {
        let of = |own: &&Link| own.is_bond && link.controller == Some(own.index);
        own.iter().any(of)
    };
    let ports = links.iter().filter(is_port);
    own.iter().copied().chain(ports).collect()
}

/// Returns the destination MAC addresses of frames for this node: those of the interfaces with the
/// program, of ports of bonds and bridges among them, and of all devices on top of them: bonds,
/// bridges, VLANs and macvlans, such as those of VRRP.
fn own_macs(filter: &FrameFilter, links: &[Link]) -> BTreeSet<Mac> {
    let named = links
        .iter()
        .filter(|link| filter.interfaces.contains(&link.name));
    let mut found: BTreeSet<u32> = named.map(|link| link.index).collect();
    let ports: Vec<u32> = links
        .iter()
        .filter(|link| link.controller.is_some_and(|index| found.contains(&index)))
        .map(|link| link.index)
        .collect();
    found.extend(ports);
    loop {
        let known = found.len();
        for link in links {
            let below = link.below.is_some_and(|index| found.contains(&index));
            // The other ports of a bond belong to the same host.
            let beside = link.controller.is_some_and(|index| {
                let of = |bond: &Link| bond.is_bond && bond.index == index;
                found.contains(&index) && links.iter().any(of)
            });
            if below || beside {
                found.insert(link.index);
            }
            if found.contains(&link.index) {
                found.extend(link.controller);
            }
        }
        if found.len() == known {
            break;
        }
    }
    let own = links.iter().filter(|link| found.contains(&link.index));
    own.filter_map(|link| link.mac)
        .chain(filter.macs.iter().copied())
        .collect()
}

/// Returns the properties of incoming interfaces that packets need.
fn interfaces(filter: &FrameFilter, links: &[Link]) -> Vec<Interface> {
    let bond = |link: &Link| {
        let of = |other: &&Link| other.is_bond && link.controller == Some(other.index);
        links.iter().find(of)
    };
    attached(filter, links)
        .into_iter()
        .map(|link| {
            let bond = bond(link);
            Interface {
                index: link.index,
                group: bond.map_or(link.index, |bond| bond.index),
                mtu: bond.map_or(link.mtu, |bond| bond.mtu),
                ..Interface::default()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use steer_core::dataplane::FakeDataplane;

    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: Some(mac(index)),
            mtu: 1500,
            ..Link::default()
        }
    }

    fn mac(index: u32) -> Mac {
        let [.., low] = index.to_be_bytes();
        [2, 0, 0, 0, 0, low]
    }

    fn filter(names: &[&str]) -> FrameFilter {
        FrameFilter {
            interfaces: names.iter().map(|name| (*name).to_owned()).collect(),
            ..FrameFilter::default()
        }
    }

    fn found(names: &[&str], links: &[Link]) -> Vec<u8> {
        let macs = own_macs(&filter(names), links);
        macs.into_iter().map(|[.., low]| low).collect()
    }

    #[test]
    fn devices_upon_an_interface_have_frames_of_their_own() {
        let links = [
            link(1, "eth0"),
            // A VLAN, and VRRP on top of it.
            Link {
                below: Some(1),
                ..link(2, "eth0.30")
            },
            Link {
                below: Some(2),
                ..link(3, "vrrp.7")
            },
            link(4, "eth1"),
            Link {
                below: Some(4),
                ..link(5, "eth1.30")
            },
        ];
        assert_eq!(found(&["eth0"], &links), [1, 2, 3]);
        // Only upper devices count: a VLAN device accepts no frames for the address of its lower
        // device.
        assert_eq!(found(&["eth0.30"], &links), [2, 3]);
        assert_eq!(found(&["eth0", "eth1"], &links), [1, 2, 3, 4, 5]);
        assert_eq!(found(&["gone"], &links), Vec::<u8>::new());
    }

    #[test]
    fn ports_and_their_bond_share_frames_and_ports_of_a_bridge_do_not() {
        let bond = Link {
            is_bond: true,
            ..link(10, "bond0")
        };
        let port = |index, name: &str, controller| Link {
            controller: Some(controller),
            ..link(index, name)
        };
        let links = [
            bond,
            port(11, "eth0", 10),
            port(12, "eth1", 10),
            Link {
                below: Some(10),
                ..link(13, "bond0.5")
            },
            link(20, "br0"),
            port(21, "eth2", 20),
            port(22, "tap7", 20),
        ];
        assert_eq!(found(&["bond0"], &links), [10, 11, 12, 13]);
        assert_eq!(found(&["eth0"], &links), [10, 11, 12, 13]);
        // Frames for a machine behind the bridge are not for this host.
        assert_eq!(found(&["eth2"], &links), [20, 21]);
        assert_eq!(found(&["br0"], &links), [20, 21, 22]);
    }

    #[test]
    fn addresses_of_the_configuration_are_own_ones_besides() {
        let virtual_router = [0, 0, 0x5e, 0, 1, 7];
        let filter = FrameFilter {
            macs: vec![virtual_router],
            ..filter(&["eth0"])
        };
        let macs = own_macs(&filter, &[link(1, "eth0")]);
        assert_eq!(macs, [virtual_router, mac(1)].into_iter().collect());
    }

    #[test]
    fn ports_of_a_bond_are_one_group_with_its_mtu() {
        let links = [
            Link {
                is_bond: true,
                mtu: 9000,
                ..link(300, "bond0")
            },
            Link {
                controller: Some(300),
                ..link(11, "eth0")
            },
            Link {
                controller: Some(300),
                ..link(12, "eth1")
            },
            Link {
                controller: Some(20),
                mtu: 1400,
                ..link(21, "eth2")
            },
        ];
        let known = interfaces(&filter(&["bond0", "eth2"]), &links);
        let known: Vec<_> = known.iter().map(|i| (i.index, i.group, i.mtu)).collect();
        assert_eq!(
            known,
            [
                (300, 300, 9000),
                (21, 21, 1400),
                (11, 300, 9000),
                (12, 300, 9000)
            ]
        );
    }

    #[test]
    fn addresses_are_listed_again_after_an_event_or_another_filter() {
        let mut dataplane = FakeDataplane::default();
        let mut own = OwnLinks::default();
        let lo = filter(&["lo"]);
        own.refresh(&mut dataplane, &lo, 1).unwrap();
        let first = own.applied.as_ref().unwrap().2;
        own.refresh(&mut dataplane, &lo, 1).unwrap();
        assert_eq!(own.applied.as_ref().unwrap().2, first);
        own.refresh(&mut dataplane, &lo, 2).unwrap();
        assert!(own.applied.as_ref().unwrap().2 > first);
        let any = FrameFilter {
            accepts_any: true,
            ..lo
        };
        own.refresh(&mut dataplane, &any, 2).unwrap();
        assert_eq!(own.macs, None);
    }
}
