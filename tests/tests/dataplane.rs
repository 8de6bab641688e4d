//! Real traffic through the program, without a daemon; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use steer_common::{
    abi::{MemberState, Mode},
    verdict::DropReason,
};
use steer_core::dataplane::{SteeringTables as _, TrafficCounters as _};
use steer_dataplane::{Decap, Xdp};
use steer_tests::{
    echo::Echo,
    netns::Namespace,
    pass::Pass,
    steering::{SOURCE_V4, SOURCE_V6, steer},
    topology::{PORT as PORT_OF_BACKEND, Site, VIP_V4, VIP_V6},
};

const PORT: u16 = 8080;
const GUE_PORT: u16 = 6080;
const TIMEOUT: Duration = Duration::from_secs(3);

/// Sends a request over TCP, and another one over the same connection; returns both answers.
fn ask_tcp(client: &Namespace, vip: IpAddr) -> (String, String) {
    client
        .enter(|| {
            let mut stream =
                TcpStream::connect_timeout(&SocketAddr::new(vip, PORT), TIMEOUT).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut ask = || {
                stream.write_all(b"who").unwrap();
                let mut buffer = [0; 200];
                let len = stream.read(&mut buffer).unwrap();
                String::from_utf8(buffer[..len].to_vec()).unwrap()
            };
            (ask(), ask())
        })
        .unwrap()
}

/// Sends a datagram of this length, and returns the answer.
fn ask_udp(client: &Namespace, vip: IpAddr, len: usize) -> String {
    client
        .enter(|| {
            let any: IpAddr = if vip.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            // Connected, so that an answer from any other address than the VIP is ignored.
            socket.connect((vip, PORT)).unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            socket.send(&vec![7; len]).unwrap();
            let mut buffer = [0; 200];
            let len = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        })
        .unwrap()
}

fn vips() -> [IpAddr; 2] {
    [VIP_V4.into(), VIP_V6.into()]
}

#[test]
fn nat_carries_tcp_and_udp_of_both_families() {
    let site = Site::new(&[None, None]).unwrap();
    let mut xdp = steer(&site, Mode::Nat).unwrap();
    let mut echoes = Vec::new();
    for backend in &site.backends {
        for address in [IpAddr::V4(backend.v4), backend.v6.into()] {
            let name = &backend.node_port;
            echoes.push(
                Echo::start_in(&backend.namespace, SocketAddr::new(address, PORT), name).unwrap(),
            );
        }
    }
    for (vip, source) in vips()
        .into_iter()
        .zip([IpAddr::V4(SOURCE_V4), SOURCE_V6.into()])
    {
        let (first, again) = ask_tcp(&site.client, vip);
        assert!(first.starts_with("backend0 "), "{first}");
        assert!(first.contains(&source.to_string()), "{first}");
        assert_eq!(first, again);
        for len in [3, 4000] {
            let answer = ask_udp(&site.client, vip, len);
            assert!(answer.starts_with("backend0 "), "{answer}");
            assert!(answer.contains(&source.to_string()), "{answer}");
        }
    }
    let counters = xdp.maps().counters().unwrap();
    assert_eq!(counters.members[1].flows, 3, "{:?}", counters.members[1]);
    assert!(
        counters.members[1].replies >= 4,
        "{:?}",
        counters.members[1]
    );
    assert_eq!(
        counters.drops.iter().sum::<u64>(),
        0,
        "{:?}",
        counters.drops
    );

    // A member that is down gets no more packets, starting with the next one.
    for member in [1, 101] {
        xdp.maps().set_member_state(member, MemberState::Down);
    }
    for vip in vips() {
        assert!(ask_tcp(&site.client, vip).0.starts_with("backend1 "));
        assert!(ask_udp(&site.client, vip, 3).starts_with("backend1 "));
    }
}

/// A site whose backends have the VIPs and answer directly, with a direct-return mode.
struct Direct {
    site: Site,
    xdp: Xdp,
    _echoes: Vec<Echo>,
    decaps: Vec<Decap>,
}

impl Direct {
    /// Creates the site; `mtu` is that of the links to the backends.
    fn new(mode: Mode, mtu: u32) -> Self {
        let site = Site::new(&[None, None]).unwrap();
        let mtu = mtu.to_string();
        let sources = [(IpAddr::V4(SOURCE_V4), 32), (SOURCE_V6.into(), 128)];
        let mut echoes = Vec::new();
        let mut decaps = Vec::new();
        for backend in &site.backends {
            backend.add_vips().unwrap();
            for (namespace, port) in [
                (&site.node, backend.node_port.as_str()),
                (&backend.namespace, PORT_OF_BACKEND),
            ] {
                let command = ["ip", "link", "set", port, "mtu", &mtu];
                namespace.run(&command).unwrap();
            }
            let attach = || Decap::attach(PORT_OF_BACKEND, &sources, GUE_PORT, false);
            decaps.push(backend.namespace.enter(attach).unwrap().unwrap());
            for vip in vips() {
                let address = SocketAddr::new(vip, PORT);
                let echo = Echo::start_in(&backend.namespace, address, &backend.node_port);
                echoes.push(echo.unwrap());
            }
        }
        let xdp = steer(&site, mode).unwrap();
        Self {
            site,
            xdp,
            _echoes: echoes,
            decaps,
        }
    }

    /// Checks that the backend answers over TCP and UDP, and sees the client's own address.
    fn carries(&mut self) {
        let clients = [
            IpAddr::V4(self.site.client_v4()),
            self.site.client_v6().into(),
        ];
        for (vip, client) in vips().into_iter().zip(clients) {
            let (first, again) = ask_tcp(&self.site.client, vip);
            assert!(first.starts_with("backend0 "), "{first}");
            assert!(first.contains(&client.to_string()), "{first}");
            assert_eq!(first, again);
            for len in [3, 4000] {
                let answer = ask_udp(&self.site.client, vip, len);
                assert!(answer.starts_with("backend0 "), "{answer}");
            }
        }
        let counters = self.xdp.maps().counters().unwrap();
        let drops: u64 = counters.drops.iter().sum();
        assert_eq!(drops, 0, "{:?}", counters.drops);
        for member in [1, 101] {
            self.xdp.maps().set_member_state(member, MemberState::Down);
        }
        for vip in vips() {
            assert!(ask_tcp(&self.site.client, vip).0.starts_with("backend1 "));
            assert!(ask_udp(&self.site.client, vip, 3).starts_with("backend1 "));
        }
    }

    /// Checks that the first backend decapsulated all packets sent to it.
    fn strips_all(&mut self) {
        let counters = self.xdp.maps().counters().unwrap();
        let (stripped, drops) = self.decaps[0].counters().unwrap();
        let sent = counters.members[1].packets + counters.members[101].packets;
        assert!(sent > 0);
        assert_eq!(stripped, sent, "{drops:?}");
    }
}

#[test]
fn ipip_carries_tcp_udp_and_fragments_of_both_families() {
    let mut direct = Direct::new(Mode::Ipip, 1600);
    direct.carries();
    direct.strips_all();
}

#[test]
fn gue_carries_tcp_udp_and_fragments_of_both_families() {
    let mut direct = Direct::new(Mode::Gue, 1600);
    direct.carries();
    direct.strips_all();
}

#[test]
fn l2_carries_tcp_udp_and_fragments_of_both_families() {
    Direct::new(Mode::L2, 1500).carries();
}

#[test]
fn a_client_learns_how_much_a_tunnel_takes() {
    let mut direct = Direct::new(Mode::Gue, 1500);
    let _pass = Pass::attach(&direct.site.client, PORT_OF_BACKEND).unwrap();
    for vip in vips() {
        let answer = direct.site.client.enter(|| {
            let address = SocketAddr::new(vip, PORT);
            let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.set_write_timeout(Some(TIMEOUT)).unwrap();
            let mut answer = String::new();
            // Failures show in the counters.
            if stream.write_all(&vec![7; 300_000]).is_ok() {
                stream.shutdown(Shutdown::Write).unwrap();
                drop(stream.read_to_string(&mut answer));
            }
            answer
        });
        let answer = answer.unwrap();
        let drops = direct.xdp.maps().counters().unwrap().drops;
        assert!(answer.starts_with("backend0 "), "{answer:.100} {drops:?}");
    }
    let counters = direct.xdp.maps().counters().unwrap();
    assert!(
        counters.drops[DropReason::TooBig as usize] > 0,
        "nothing was too big: {:?}",
        counters.drops
    );
}
