//! The usual topology: a client, a node that balances load, and backends behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::delay::DelayLine;
use crate::link::{bond, devices, vlan};
use crate::netns::Namespace;
use crate::segment::Segment;
use crate::veth::{End, Veth};

/// Virtual IPv4 address, which the client routes to the node.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Virtual IPv6 address, which the client routes to the node.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
/// Interface of the node to the client.
pub const NODE_CLIENT_PORT: &str = "client";
/// The only interface of the client and of each backend.
pub const PORT: &str = "eth0";

/// Kind of the link between the node and another namespace.
#[derive(Clone, Debug, Default)]
pub enum Link {
    /// A pair of virtual Ethernet devices.
    #[default]
    Veth,
    /// A line that delays each frame by this time in each direction.
    Delayed(Duration),
    /// A VLAN on a pair of virtual Ethernet devices.
    Vlan(u16),
    /// A bond of two pairs of virtual Ethernet devices.
    Bond,
    /// A switch that other hosts can be plugged into.
    Segment,
    /// Two devices of this namespace that are joined already: the node's and the other's.
    Devices([String; 2]),
}

/// Namespaces joined as client — node — backends; each link has a network of its own, in which the
/// node is host 1 and the other end host 2.
#[derive(Debug)]
pub struct Site {
    /// The backends.
    // Dropped before the node, so that delay lines end before either of their devices is gone.
    pub backends: Vec<Backend>,
    /// The node, which forwards both protocols.
    pub node: Namespace,
    /// The client.
    pub client: Namespace,
    /// Switch between client and node, if their link has one.
    pub segment: Option<Segment>,
}

/// A backend and its link.
#[derive(Debug)]
pub struct Backend {
    // Dropped before the namespace, so that its devices are removed first.
    line: Option<DelayLine>,
    /// Switch between it and the node, if their link has one.
    pub segment: Option<Segment>,
    /// Network namespace.
    pub namespace: Namespace,
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
    /// Hardware address.
    pub mac: String,
    /// Interface of the node to it.
    pub node_port: String,
}

impl Site {
    /// Creates a site with one backend for each item; with a duration its link delays each frame by
    /// that time in each direction.
    pub fn new(delays: &[Option<Duration>]) -> Result<Self> {
        let links: Vec<Link> = delays
            .iter()
            .map(|delay| delay.map_or(Link::Veth, Link::Delayed))
            .collect();
        Self::over(&Link::Veth, &links)
    }

    /// Creates a site with one backend for each of the links; the first link is the client's.
    pub fn over(client_link: &Link, links: &[Link]) -> Result<Self> {
        ensure!(links.len() < 250, "too many backends");
        let [client, node] = [Namespace::create("client")?, Namespace::create("node")?];
        for namespace in [&client, &node] {
            open_up(namespace)?;
        }
        node.sysctl("net.ipv4.ip_forward", "1")?;
        node.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let segment = connect_client(&node, &client, client_link)?;
        // Fast reconnections would otherwise meet the client's own old connections.
        client.sysctl("net.ipv4.tcp_max_tw_buckets", "4")?;
        client.sysctl("net.ipv4.ip_local_port_range", "1024 65000")?;
        let backends = (1..)
            .zip(links)
            .map(|(number, link)| Backend::new(&node, number, link));
        let backends = backends.collect::<Result<_>>()?;
        Ok(Self {
            segment,
            client,
            node,
            backends,
        })
    }

    /// Removes the link between client and node, and its interfaces with it.
    pub fn cut_client(&self) -> Result<()> {
        let cut = ["ip", "link", "del", NODE_CLIENT_PORT];
        self.node.run(&cut).map(drop)
    }

    /// Creates that link again as it was.
    pub fn join_client(&self) -> Result<()> {
        connect_client(&self.node, &self.client, &Link::Veth).map(drop)
    }

    /// Returns the client's IPv4 address.
    pub const fn client_v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 2)
    }

    /// Returns the client's IPv6 address.
    pub const fn client_v6(&self) -> Ipv6Addr {
        v6(0, 2)
    }
}

impl Backend {
    fn new(node: &Namespace, number: u8, link: &Link) -> Result<Self> {
        let namespace = Namespace::create(&format!("backend{}", number - 1))?;
        open_up(&namespace)?;
        let node_port = format!("backend{}", number - 1);
        let Medium { line, segment } = connect(node, &node_port, &namespace, number, link)?;
        let v4 = Ipv4Addr::new(10, 77, number, 2);
        Ok(Self {
            line,
            segment,
            namespace,
            v4,
            v6: v6(number, 2),
            mac: mac(number, 2),
            node_port,
        })
    }

    /// Adds the virtual addresses to the backend's loopback, for direct server return.
    pub fn add_vips(&self) -> Result<()> {
        let (v4, v6) = (format!("{VIP_V4}/32"), format!("{VIP_V6}/128"));
        self.namespace
            .run(&["ip", "addr", "add", &v4, "dev", "lo"])?;
        self.namespace
            .run(&["ip", "addr", "add", &v6, "dev", "lo", "nodad"])?;
        Ok(())
    }

    /// Makes the backend's delay line lose a percentage of the frames in each direction; see
    /// [`DelayLine::lose`].
    pub fn lose(&self, percent: u32) -> Result<()> {
        let line = self.line.as_ref();
        line.context("its link is no delay line")?.lose(percent);
        Ok(())
    }

    /// Restores what the backend's interface loses by going down: IPv6 addresses, the node's
    /// hardware addresses and the routes to it.
    pub fn restore(&self) -> Result<()> {
        let number = self.v4.octets()[2];
        let address = format!("{}/64", self.v6);
        self.namespace
            .run(&["ip", "addr", "replace", &address, "dev", PORT, "nodad"])?;
        for any in [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Ipv6Addr::UNSPECIFIED.into(),
        ] {
            let (family, gateway) = gateway(any, number);
            let mac = mac(number, 1);
            self.namespace.run(&[
                "ip",
                "neigh",
                "replace",
                &gateway,
                "lladdr",
                &mac,
                "dev",
                PORT,
                "nud",
                "permanent",
            ])?;
            self.namespace
                .run(&["ip", family, "route", "replace", "default", "via", &gateway])?;
        }
        Ok(())
    }

    /// Returns the number of frames lost by the backend's delay line.
    pub fn line_drops(&self) -> u64 {
        self.line.as_ref().map_or(0, DelayLine::dropped)
    }
}

pub(crate) const fn v6(link: u8, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, link as u16, 0, 0, 0, host)
}

pub(crate) fn mac(link: u8, host: u8) -> String {
    format!("02:77:00:00:{link:02x}:{host:02x}")
}

/// Returns the `ip` option for an address's family, and the node's address of that family on a
/// link.
fn gateway(address: IpAddr, link: u8) -> (&'static str, String) {
    match address {
        IpAddr::V4(_) => ("-4", Ipv4Addr::new(10, 77, link, 1).to_string()),
        IpAddr::V6(_) => ("-6", v6(link, 1).to_string()),
    }
}

/// Disables reverse-path filtering in a namespace, so that answers may take any path.
pub(crate) fn open_up(namespace: &Namespace) -> Result<()> {
    namespace.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    namespace.sysctl("net.ipv4.conf.default.rp_filter", "0")
}

fn connect_client(node: &Namespace, client: &Namespace, link: &Link) -> Result<Option<Segment>> {
    let medium = connect(node, NODE_CLIENT_PORT, client, 0, link)?;
    for vip in [IpAddr::from(VIP_V4), VIP_V6.into()] {
        let (family, gateway) = gateway(vip, 0);
        let vip = vip.to_string();
        client.run(&["ip", family, "route", "add", &vip, "via", &gateway])?;
    }
    Ok(medium.segment)
}

/// Devices and threads between the node and another namespace that must be kept alive.
#[derive(Debug, Default)]
pub(crate) struct Medium {
    line: Option<DelayLine>,
    segment: Option<Segment>,
}

/// Joins the node and another namespace, whose default routes go to the node.
pub(crate) fn connect(
    node: &Namespace,
    node_port: &str,
    other: &Namespace,
    number: u8,
    link: &Link,
) -> Result<Medium> {
    let addresses = [1, 2].map(|host| {
        [
            format!("10.77.{number}.{host}/24"),
            format!("{}/64", v6(number, host)),
        ]
    });
    let addresses = addresses
        .each_ref()
        .map(|both| both.each_ref().map(String::as_str));
    let macs = [1, 2].map(|host| mac(number, host));
    let near = End {
        namespace: node,
        name: node_port,
        mac: &macs[0],
        addresses: &addresses[0],
        gro: false,
    };
    let far = End {
        namespace: other,
        name: PORT,
        mac: &macs[1],
        addresses: &addresses[1],
        gro: true,
    };
    let mut medium = Medium::default();
    match link {
        Link::Veth => Veth::between(near, far)?,
        Link::Delayed(delay) => medium.line = Some(DelayLine::between(near, far, *delay)?),
        Link::Vlan(id) => vlan(near, far, *id)?,
        Link::Bond => bond(near, far)?,
        Link::Segment => medium.segment = Some(Segment::between(near, far)?),
        Link::Devices(names) => devices(names, near, far)?,
    }
    for any in [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ] {
        let (family, gateway) = gateway(any, number);
        other.run(&["ip", family, "route", "add", "default", "via", &gateway])?;
    }
    Ok(medium)
}
