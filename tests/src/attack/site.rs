//! The site under attack: clients, a node and backends, with attackers in the clients' network, on
//! a backend's segment, and in a network of their own.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    raw::{Raw, Segment, Sniffer},
    streams::Connections,
};
use crate::{
    echo::Echo,
    fleet::{BEACON, Fleet, HTTP, Plan, TUNNEL},
    netns::Namespace,
    quic::Server,
    segment,
    topology::{Link, PORT, VIP_V4, connect, mac, open_up},
    veth::End,
};

/// Port of the echo service, over UDP.
pub(super) const ECHO: u16 = 5000;
/// Port of the QUIC service.
pub(super) const QUIC: u16 = 4433;
/// Source of `nat`.
pub(super) const NAT: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
/// Number of backends behind `nat`; the following ones are tunnelled.
pub(super) const BEHIND_NAT: usize = 3;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Number of the attackers' own network, and their host number in all networks.
const OUTSIDE: u8 = 200;
const HOST: u8 = 66;
/// Interface of the node to the attackers' own network.
const OUTSIDE_PORT: &str = "outside";

/// An attacker, who sends arbitrary frames from one place.
#[derive(Debug)]
pub(super) struct Attacker {
    /// Network namespace.
    pub(super) namespace: Namespace,
    /// Hardware address.
    pub(super) mac: [u8; 6],
    /// Hardware address of the node on that link.
    pub(super) node: [u8; 6],
    /// IP address.
    pub(super) address: Ipv4Addr,
    raw: Raw,
}

impl Attacker {
    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// Returns an error if the interface is gone.
    pub(super) fn send(&self, frame: &[u8]) -> Result<()> {
        self.raw.send(frame)
    }

    fn plugged(segment: &segment::Segment, number: u8) -> Result<Self> {
        let namespace = Namespace::create("attacker")?;
        open_up(&namespace)?;
        segment.plug_in(End {
            namespace: &namespace,
            name: PORT,
            mac: &mac(number, HOST),
            addresses: &[&format!("{}/24", host(number, HOST))],
            gro: false,
        })?;
        let node = host(number, 1).to_string();
        namespace.run(&["ip", "route", "add", "default", "via", &node])?;
        Self::new(namespace, number, HOST)
    }

    fn new(namespace: Namespace, number: u8, own: u8) -> Result<Self> {
        Ok(Self {
            raw: Raw::sender(&namespace, PORT)?,
            namespace,
            mac: hardware(number, own),
            node: hardware(number, 1),
            address: host(number, own),
        })
    }
}

/// Returns an address of a link's network.
const fn host(link: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, link, number)
}

const fn hardware(link: u8, host: u8) -> [u8; 6] {
    [2, 0x77, 0, 0, link, host]
}

/// Requirements of an attack beyond the usual site.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requirements {
    /// Whether QUIC servers run behind the QUIC service.
    pub(super) quic: bool,
    /// Whether `nat` has so few ports that a short attack can take them all.
    pub(super) few_ports: bool,
}

/// The running site.
#[derive(Debug)]
pub(super) struct Site {
    _echoes: Vec<Echo>,
    _quic: Vec<Server>,
    /// An attacker in the clients' network.
    pub(super) neighbour: Attacker,
    /// An attacker on the segment of the first backend.
    pub(super) insider: Attacker,
    /// An attacker behind an interface of the node where there are neither clients nor backends.
    pub(super) outsider: Attacker,
    /// Node, backends and clients.
    pub(super) fleet: Fleet,
}

impl Site {
    /// Starts the site with default settings.
    ///
    /// # Errors
    ///
    /// Returns an error without root, or if a part does not start.
    pub(super) fn start(requirements: Requirements) -> Result<Self> {
        let mut fleet = Fleet::new(Plan {
            defaults: true,
            watched: true,
            shared: true,
            tunnelled: NAMES[BEHIND_NAT..].to_vec(),
            thinking: [Duration::from_millis(20), Duration::from_millis(50)],
            tokens: 4,
            ..Plan::new(&NAMES, "nat")
        })?;
        let outside = Namespace::create("outside")?;
        open_up(&outside)?;
        connect(
            &fleet.site.node,
            OUTSIDE_PORT,
            &outside,
            OUTSIDE,
            &Link::Veth,
        )?;
        fs::write(fleet.config_path(), document(&fleet, requirements))?;
        let behind_nat = fleet.site.backends[..BEHIND_NAT].iter().zip(NAMES);
        let (mut echoes, mut quic) = (Vec::new(), Vec::new());
        for (backend, name) in behind_nat {
            // As docs/src/explain/threats.md has it for services with fragmented datagrams.
            backend.namespace.sysctl("net.ipv4.ipfrag_time", "2")?;
            let address = SocketAddr::new(backend.v4.into(), ECHO);
            echoes.push(Echo::start_in(&backend.namespace, address, name)?);
            if requirements.quic {
                quic.push(Server::start_in(&backend.namespace, QUIC, name, None)?);
            }
        }
        fleet.start()?;
        let segment = fleet.site.segment.as_ref();
        let clients = segment.context("the clients' link has no switch")?;
        let segment = fleet.site.backends[0].segment.as_ref();
        let backends = segment.context("the backend's link has no switch")?;
        Ok(Self {
            _echoes: echoes,
            _quic: quic,
            neighbour: Attacker::plugged(clients, 0)?,
            insider: Attacker::plugged(backends, 1)?,
            outsider: Attacker::new(outside, OUTSIDE, 2)?,
            fleet,
        })
    }

    /// Returns the chat services: behind `nat`, and tunnelled.
    #[must_use]
    pub(super) fn chats() -> [SocketAddr; 2] {
        [HTTP, TUNNEL].map(|port| SocketAddr::new(VIP_V4.into(), port))
    }

    /// Returns the connections that clients keep open.
    #[must_use]
    pub(super) fn connections() -> [Connections; 2] {
        let [nat, tunnel] = Self::chats();
        [(nat, 12, 8), (tunnel, 4, 2)].map(|(target, streams, waiting)| Connections {
            target,
            streams,
            waiting,
        })
    }

    /// Names of a backend behind `nat` and of a tunnelled one, for attacks while they drain.
    #[must_use]
    pub(super) const fn draining() -> [&'static str; 2] {
        [NAMES[0], NAMES[BEHIND_NAT]]
    }

    /// Returns the address of a backend's beacon.
    #[must_use]
    pub(super) fn beacon(&self, backend: usize) -> (Ipv4Addr, u16) {
        (self.fleet.site.backends[backend].v4, BEACON)
    }

    /// Returns the flows of `nat` as the backends see them: index of the backend, its end, and the
    /// node's end.
    ///
    /// # Errors
    ///
    /// Returns an error if a backend's connections cannot be listed.
    pub(super) fn nat_flows(&self) -> Result<Vec<NatFlow>> {
        let mut flows = Vec::new();
        for (index, backend) in self.fleet.site.backends[..BEHIND_NAT].iter().enumerate() {
            let list = ["ss", "-Htn", "state", "established"];
            for line in backend.namespace.run(&list)?.lines() {
                let peer = line.split_whitespace().last().unwrap_or_default();
                let Ok(SocketAddr::V4(peer)) = peer.parse() else {
                    continue;
                };
                if *peer.ip() == NAT {
                    flows.push(NatFlow {
                        backend: index,
                        server: (backend.v4, HTTP),
                        node: (NAT, peer.port()),
                    });
                }
            }
        }
        Ok(flows)
    }

    /// Returns the UDP ports from which the node's daemon probes beacons.
    ///
    /// # Errors
    ///
    /// Returns an error if the node's sockets cannot be listed.
    pub(super) fn probe_ports(&self) -> Result<Vec<u16>> {
        let list = self.fleet.site.node.run(&["ss", "-Hun", "-a"])?;
        let local = list
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3));
        let ports = local.filter_map(|local| local.rsplit(':').next()?.parse().ok());
        Ok(ports.collect())
    }

    /// Reports the SYNs that reach backends behind `nat`: index of the backend, and the segment.
    ///
    /// # Errors
    ///
    /// Returns an error without root.
    pub(super) fn follow_syns(
        &self,
        look: impl Fn(usize, Segment) + Clone + Send + 'static,
    ) -> Result<Vec<Sniffer>> {
        let backends = self.fleet.site.backends[..BEHIND_NAT].iter().enumerate();
        let sniffers = backends.map(|(index, backend)| {
            let look = look.clone();
            Sniffer::start(&backend.namespace, PORT, move |frame| {
                if let Some(segment) = Segment::read(frame)
                    && segment.flags == crate::packet::SYN
                {
                    look(index, segment);
                }
            })
        });
        sniffers.collect()
    }

    /// Returns the node's address towards the first backend.
    #[must_use]
    pub(super) const fn node_towards_insider() -> IpAddr {
        IpAddr::V4(host(1, 1))
    }
}

/// A flow of `nat` behind the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct NatFlow {
    /// Index of the backend.
    pub(super) backend: usize,
    /// End of the backend.
    pub(super) server: (Ipv4Addr, u16),
    /// End of the node.
    pub(super) node: (Ipv4Addr, u16),
}

/// Returns the usual configuration with the attackers' interface, and services over UDP.
fn document(fleet: &Fleet, requirements: Requirements) -> String {
    let usual = fleet.config();
    let mut text = usual.replace(
        "interfaces = [",
        &format!("interfaces = [\"{OUTSIDE_PORT}\", "),
    );
    if requirements.few_ports {
        text = text.replace("[nat]\n", "[nat]\nports = \"20000-22047\"\n");
    }
    for (name, port, more) in [("echo", ECHO, ""), ("quic", QUIC, "quic = true\n")] {
        text += &format!(
            "\n[[service]]\nname = \"{name}\"\naddress = \"{VIP_V4}\"\nport = {port}\n\
             protocol = \"udp\"\npools = [\"all\"]\n{more}"
        );
    }
    text
}
