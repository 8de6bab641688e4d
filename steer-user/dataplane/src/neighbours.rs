//! Next hops to backends, from the kernel's routing and neighbour tables (rtnetlink).

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use anyhow::{Context, Result, anyhow};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, IpVersion, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteFlags, RouteMessage},
    },
};
use steer_common::{
    abi::{Mac, Macs},
    tables::NextHop,
};
use tokio::sync::watch;

use super::route::Route;

/// The discard port (RFC 863); a datagram to it makes the kernel resolve the neighbour.
const DISCARD: u16 = 9;

/// Counts of the kernel's notifications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Neighbours added, removed or changed.
    pub neighbours: u64,
    /// Everything else: links, routes, and notifications lost because of an overflow.
    pub others: u64,
    /// Those of `others` that are not about routes.
    pub links: u64,
}

impl Changes {
    fn count(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) {
        match message.payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewNeighbour(_) | RouteNetlinkMessage::DelNeighbour(_),
            ) => self.neighbours += 1,
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_),
            ) => self.others += 1,
            _ => {
                self.others += 1;
                self.links += 1;
            }
        }
    }
}

/// A netlink socket of this network namespace.
#[derive(Clone, Debug)]
pub struct Neighbours {
    handle: Handle,
    changes: watch::Receiver<Changes>,
}

impl Neighbours {
    /// Opens the socket. Must be called in a Tokio runtime, on a thread in the network namespace of
    /// the interfaces.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses the socket.
    pub fn new() -> Result<Self> {
        let groups = [
            MulticastGroup::Neigh,
            MulticastGroup::Link,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, mut messages) =
            new_multicast_connection(&groups).context("cannot open a netlink socket")?;
        let (changed, changes) = watch::channel(Changes::default());
        tokio::spawn(connection);
        tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                changed.send_modify(|changes| changes.count(&message));
                if changed.is_closed() {
                    break;
                }
            }
        });
        Ok(Self { handle, changes })
    }

    /// Returns a receiver that changes whenever links, routes or neighbours do.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }

    /// Returns the next hop to an address, as [`Links::next_hop`] does for packets that are not
    /// encapsulated.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no route, or it leads through an interface without MAC
    /// addresses.
    pub async fn next_hop(&self, address: IpAddr, attached: &[u32]) -> Result<Option<NextHop>> {
        let route = self.route(address).await?;
        self.links().await?.next_hop(&route, 0, attached).await
    }

    /// Returns the kernel's current neighbours. One query returns all of them, so it serves many
    /// next hops.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel does not answer.
    pub async fn links(&self) -> Result<Links<'_>> {
        Ok(Links {
            socket: self,
            macs: self.macs().await?,
            devices: HashMap::new(),
            reply_interfaces: HashMap::new(),
        })
    }

    /// Returns the MAC addresses of neighbours by interface and address.
    pub(super) async fn macs(&self) -> Result<HashMap<(u32, IpAddr), Mac>> {
        let mut macs = HashMap::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut all = self.handle.neighbours().get().set_family(version).execute();
            while let Some(neighbour) = all.try_next().await.context("the kernel's neighbours")? {
                macs.extend(resolved(neighbour));
            }
        }
        Ok(macs)
    }

    pub(super) const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns the route to an address.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no route.
    pub async fn route(&self, address: IpAddr) -> Result<Route> {
        let message = self.ask_route(address, RouteFlags::empty()).await?;
        let route = Route::from_message(address, message)?;
        if !route.has_learned_mtu() {
            return Ok(route);
        }
        let configured = self.ask_route(address, RouteFlags::FibMatch).await?;
        Ok(route.with_configured_mtu(&configured))
    }

    async fn ask_route(&self, address: IpAddr, flags: RouteFlags) -> Result<RouteMessage> {
        let mut message = match address {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .build(),
        };
        message.header.flags |= flags;
        let mut routes = self.handle.route().get(message).execute();
        routes
            .try_next()
            .await
            .with_context(|| format!("{address}: no route; `ip route get {address}` says why"))?
            .ok_or_else(|| anyhow!("{address}: no route"))
    }

    async fn link(&self, interface: u32) -> Result<LinkMessage> {
        let mut links = self.handle.link().get().match_index(interface).execute();
        links
            .try_next()
            .await
            .with_context(|| format!("interface {interface}"))?
            .ok_or_else(|| anyhow!("interface {interface}: gone"))
    }

    async fn device(&self, interface: u32) -> Result<Device> {
        let link = self.link(interface).await?;
        Device::from_link(link).ok_or_else(|| anyhow!("interface {interface}: no MAC address"))
    }

    /// Returns the indexes of a bond's ports; `None` if the interface is not a bond.
    async fn bond_devices(&self, interface: u32) -> Result<Option<Vec<u32>>> {
        if !is_bond(&self.link(interface).await?) {
            return Ok(None);
        }
        let mut devices = Vec::new();
        let mut all = self.handle.link().get().execute();
        while let Some(link) = all.try_next().await.context("the devices of a bond")? {
            let belongs = |a: &LinkAttribute| *a == LinkAttribute::Controller(interface);
            if link.attributes.iter().any(belongs) {
                devices.push(link.header.index);
            }
        }
        Ok(Some(devices))
    }
}

/// Snapshot of neighbours and interfaces.
#[derive(Debug)]
pub struct Links<'a> {
    socket: &'a Neighbours,
    /// MAC addresses by interface and address.
    macs: HashMap<(u32, IpAddr), Mac>,
    devices: HashMap<u32, Device>,
    /// Incoming interfaces of packets, by outgoing interface.
    reply_interfaces: HashMap<u32, [u32; 2]>,
}

impl Links<'_> {
    /// Returns the next hop of a route for packets with `overhead` bytes of outer headers. A route through a VLAN device that is not in `attached`
    /// uses the lower device with a tag. `None` while the MAC address is unknown; the kernel is
    /// asked to resolve it, and [`Neighbours::changes`] will report the result.
    ///
    /// # Errors
    ///
    /// Returns an error if the route leads through an interface without MAC addresses.
    pub async fn next_hop(
        &mut self,
        route: &Route,
        overhead: u32,
        attached: &[u32],
    ) -> Result<Option<NextHop>> {
        let interface = route.interface();
        let device = match self.devices.get(&interface) {
            Some(device) => *device,
            None => {
                let device = self.socket.device(interface).await?;
                self.devices.insert(interface, device);
                device
            }
        };
        let Some(destination) = self.macs.get(&(interface, route.next_hop())) else {
            solicit(route.next_hop(), interface);
            return Ok(None);
        };
        let (interface, vlan) = match device.vlan {
            Some(vlan) if !attached.contains(&interface) => vlan,
            _ => (interface, 0),
        };
        let mtu = route.mtu(device.mtu, overhead);
        let destination = *destination;
        Ok(Some(NextHop {
            macs: Macs::new(destination, device.mac),
            interface,
            vlan,
            // A larger MTU exceeds what IP allows.
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            reply_interfaces: self.reply_interfaces(interface, attached).await?,
        }))
    }

    async fn reply_interfaces(&mut self, interface: u32, attached: &[u32]) -> Result<[u32; 2]> {
        if let Some(known) = self.reply_interfaces.get(&interface) {
            return Ok(*known);
        }
        let bond = self.socket.bond_devices(interface).await?;
        let found = ingress_interfaces(interface, bond.as_deref(), attached);
        self.reply_interfaces.insert(interface, found);
        Ok(found)
    }
}

/// Returns whether a link is a bond.
fn is_bond(link: &LinkMessage) -> bool {
    let infos = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
    infos.is_some_and(|infos| infos.contains(&LinkInfo::Kind(InfoKind::Bond)))
}

/// Returns the interfaces on which packets arrive, for
/// [`Member::reply_interfaces`](steer_common::abi::Member): for a bond, its ports. Returns 0 (any)
/// if there are more than two, or if the program is attached to none of them: then packets arrive
/// on another device, such as the one below a macvlan or a port of a bridge.
fn ingress_interfaces(interface: u32, bond: Option<&[u32]>, attached: &[u32]) -> [u32; 2] {
    match bond {
        Some([one]) => [*one; 2],
        Some([one, other]) => [*one, *other],
        None if attached.contains(&interface) => [interface; 2],
        _ => [0; 2],
    }
}

/// Returns the address and MAC address of a neighbour, if it is resolved.
fn resolved(neighbour: NeighbourMessage) -> Option<((u32, IpAddr), Mac)> {
    if matches!(
        neighbour.header.state,
        NeighbourState::Incomplete | NeighbourState::Failed | NeighbourState::None
    ) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in neighbour.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => {
                address = Some(to.into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(to)) => {
                address = Some(to.into());
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes).ok(),
            _ => (),
        }
    }
    Some(((neighbour.header.ifindex, address?), mac?))
}

/// Properties of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Device {
    mac: Mac,
    mtu: u32,
    /// Lower device and VLAN id of a VLAN device.
    vlan: Option<(u32, u16)>,
}

impl Device {
    /// Parses a link; `None` if it has no MAC address.
    fn from_link(link: LinkMessage) -> Option<Self> {
        let (mut mac, mut mtu, mut below, mut id) = (None, u32::from(u16::MAX), None, None);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => mac = Mac::try_from(bytes).ok(),
                LinkAttribute::Mtu(value) => mtu = value,
                LinkAttribute::Link(index) => below = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    id = infos.iter().find_map(|info| match info {
                        LinkInfo::Data(InfoData::Vlan(vlan)) => {
                            vlan.iter().find_map(|attribute| match attribute {
                                InfoVlan::Id(id) => Some(*id),
                                _ => None,
                            })
                        }
                        _ => None,
                    });
                }
                _ => (),
            }
        }
        Some(Self {
            mac: mac?,
            mtu,
            vlan: below.zip(id),
        })
    }
}

/// Makes the kernel resolve a neighbour by sending an empty datagram.
pub(super) fn solicit(address: IpAddr, interface: u32) {
    // A failure here shows as a neighbour that stays unresolved.
    let _ = send_empty_datagram(address, interface);
}

fn send_empty_datagram(address: IpAddr, interface: u32) -> io::Result<()> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            let to = std::net::SocketAddrV6::new(address, DISCARD, 0, interface);
            socket.send_to(&[], to)?;
        }
        _ => {
            socket.send_to(&[], (address, DISCARD))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_by_the_interface_or_by_the_devices_of_its_bond() {
        assert_eq!(ingress_interfaces(3, None, &[2, 3]), [3, 3]);
        // Attached to the lower device.
        assert_eq!(ingress_interfaces(3, None, &[2]), [0, 0]);
        assert_eq!(ingress_interfaces(3, Some(&[7]), &[3]), [7, 7]);
        assert_eq!(ingress_interfaces(3, Some(&[7, 8]), &[3]), [7, 8]);
        assert_eq!(ingress_interfaces(3, Some(&[7, 8, 9]), &[3]), [0, 0]);
        assert_eq!(ingress_interfaces(3, Some(&[]), &[3]), [0, 0]);
    }

    #[test]
    fn only_neighbours_whose_address_is_known_are_neighbours() {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.ifindex = 3;
        neighbour.header.state = NeighbourState::Stale;
        let to = Ipv4Addr::new(10, 0, 0, 1);
        neighbour.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(to)),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        assert_eq!(resolved(neighbour.clone()), Some(((3, to.into()), mac)));
        neighbour.header.state = NeighbourState::Failed;
        assert_eq!(resolved(neighbour.clone()), None);
        neighbour.header.state = NeighbourState::Permanent;
        // Neighbours of a tunnel have addresses of other lengths.
        neighbour.attributes[1] = NeighbourAttribute::LinkLayerAddress(vec![10, 0, 0, 9]);
        assert_eq!(resolved(neighbour), None);
    }

    #[test]
    fn a_vlan_device_is_the_one_below_with_a_tag() {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(1500),
        ];
        let plain = Device {
            mac,
            mtu: 1500,
            vlan: None,
        };
        assert_eq!(Device::from_link(link.clone()), Some(plain));
        // A veth has this attribute, too.
        link.attributes.push(LinkAttribute::Link(7));
        assert_eq!(Device::from_link(link.clone()).unwrap().vlan, None);
        let data = InfoData::Vlan(vec![InfoVlan::Id(30)]);
        let infos = vec![LinkInfo::Data(data)];
        link.attributes.push(LinkAttribute::LinkInfo(infos));
        assert_eq!(Device::from_link(link).unwrap().vlan, Some((7, 30)));
        assert_eq!(Device::from_link(LinkMessage::default()), None);
    }
}
