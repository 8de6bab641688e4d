//! Real traffic through the program, without a daemon; this needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use steer_common::abi::{MemberState, Mode};
use steer_tests::{
    echo::Echo,
    netns::Namespace,
    steering::{SOURCE_V4, SOURCE_V6, steer},
    topology::{Site, VIP_V4, VIP_V6},
};
use steer_user::dataplane::{Dataplane, Decap};

const PORT: u16 = 8080;
const TIMEOUT: Duration = Duration::from_secs(3);

/// Asks over TCP, and again over the same connection; returns both answers.
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

fn ask_udp(client: &Namespace, vip: IpAddr) -> String {
    client
        .enter(|| {
            let any: IpAddr = if vip.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            // Connected, so that an answer from any other address than the VIP is not taken.
            socket.connect((vip, PORT)).unwrap();
            socket.set_read_timeout(Some(TIMEOUT)).unwrap();
            socket.send(b"who").unwrap();
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
        let answer = ask_udp(&site.client, vip);
        assert!(answer.starts_with("backend0 "), "{answer}");
        assert!(answer.contains(&source.to_string()), "{answer}");
    }
    let counters = xdp.maps().counters().unwrap();
    assert_eq!(counters.members[1].flows, 2, "{:?}", counters.members[1]);
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

    // A member that is down gets nothing more, from the next packet on.
    for member in [1, 101] {
        xdp.maps().set_member_state(member, MemberState::Down);
    }
    for vip in vips() {
        assert!(ask_tcp(&site.client, vip).0.starts_with("backend1 "));
        assert!(ask_udp(&site.client, vip).starts_with("backend1 "));
    }
}

#[test]
fn ipip_carries_tcp_and_udp_of_both_families() {
    let site = Site::new(&[None, None]).unwrap();
    let mut xdp = steer(&site, Mode::Ipip).unwrap();
    let mut parts = Vec::new();
    for backend in &site.backends {
        backend.add_vips().unwrap();
        let sources = [IpAddr::V4(SOURCE_V4), SOURCE_V6.into()];
        let decap = backend
            .namespace
            .enter(|| Decap::attach(steer_tests::topology::PORT, &sources, false))
            .unwrap()
            .unwrap();
        let echoes = vips().map(|vip| {
            let address = SocketAddr::new(vip, PORT);
            Echo::start_in(&backend.namespace, address, &backend.node_port).unwrap()
        });
        parts.push((decap, echoes));
    }
    for (vip, client) in vips()
        .into_iter()
        .zip([IpAddr::V4(site.client_v4()), IpAddr::V6(site.client_v6())])
    {
        let (first, again) = ask_tcp(&site.client, vip);
        assert!(first.starts_with("backend0 "), "{first}");
        assert!(first.contains(&client.to_string()), "{first}");
        assert_eq!(first, again);
        let answer = ask_udp(&site.client, vip);
        assert!(answer.starts_with("backend0 "), "{answer}");
    }
    let counters = xdp.maps().counters().unwrap();
    assert_eq!(
        counters.drops.iter().sum::<u64>(),
        0,
        "{:?}",
        counters.drops
    );
    let (stripped, drops) = parts[0].0.counters().unwrap();
    let sent = counters.members[1].packets + counters.members[101].packets;
    assert_eq!(stripped, sent, "{drops:?}");

    for member in [1, 101] {
        xdp.maps().set_member_state(member, MemberState::Down);
    }
    for vip in vips() {
        assert!(ask_tcp(&site.client, vip).0.starts_with("backend1 "));
        assert!(ask_udp(&site.client, vip).starts_with("backend1 "));
    }
}
