//! Packets to no service, router failover, and abandoned flows; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use steer_tests::{
    attack::Raw,
    bpffs::Bpffs,
    fleet::{Fleet, HTTP, Plan, SOURCES, binary, wait},
    netns::Namespace,
    packet::TestPacket,
    ping::ping_with,
    process::Process,
    segment::Segment,
    topology::{NODE_CLIENT_PORT, PORT, VIP_V4, VIP_V6},
    veth::End,
};

const LIMIT: Duration = Duration::from_secs(10);
/// A port of the VIP without a service.
const KERNEL: u16 = 7777;
/// A client behind a router.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 55, 0, 2);
/// The same over IPv6.
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0xfd55, 0, 0, 0, 0, 0, 0, 2);

fn run(namespace: &Namespace, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    namespace.run(&words).unwrap();
}

/// Adds the VIPs and the addresses of `nat` to the node, so that it answers pings.
fn own_addresses(fleet: &Fleet) {
    let [nat_v4, nat_v6] = SOURCES;
    for address in [&VIP_V4.to_string(), nat_v4] {
        run(
            &fleet.site.node,
            &format!("ip addr add {address}/32 dev lo"),
        );
    }
    for address in [&VIP_V6.to_string(), nat_v6] {
        let add = format!("ip addr add {address}/128 dev lo nodad");
        run(&fleet.site.node, &add);
    }
}

/// Sends a request that takes the server a while.
fn request(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let body = r#"{"model":"m","stream":true,"messages":[]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: steer\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn what_is_for_the_kernel_reaches_it_in_fragments_too() {
    let fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    own_addresses(&fleet);
    let mut fleet = fleet;
    // A service with this protocol exists at the address, so that fragments are examined.
    let text = fs::read_to_string(fleet.config_path()).unwrap();
    let service = format!(
        "\n[[service]]\nname = \"datagrams\"\naddress = \"{VIP_V4}\"\nport = 5000\n\
         protocol = \"udp\"\npools = [\"all\"]\n"
    );
    fs::write(fleet.config_path(), text + &service).unwrap();
    fleet.start().unwrap();
    let content = vec![0x5a; 3000];
    let nat = SOURCES.map(|address| address.parse::<IpAddr>().unwrap());
    for to in [VIP_V4.into(), VIP_V6.into(), nat[0], nat[1]] {
        ping_with(&fleet.site.client, to, &content, LIMIT).unwrap();
    }
    let client = fleet.site.client_v4();
    let socket = fleet
        .site
        .node
        .enter(|| UdpSocket::bind((VIP_V4, KERNEL)))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let raw = Raw::sender(&fleet.site.client, PORT).unwrap();
    // Each order uses another packet; the first fragment comes last in the second one.
    for (id, order) in [(1, [0, 1, 2]), (2, [2, 1, 0]), (3, [1, 0, 2])] {
        let packet = TestPacket {
            macs: [[2, 0x77, 0, 0, 0, 1], [2, 0x77, 0, 0, 0, 2]],
            id,
            payload: vec![id as u8; 3000],
            ..TestPacket::udp((client.into(), 999), (VIP_V4.into(), KERNEL))
        };
        let parts = packet.fragments(1480);
        assert_eq!(parts.len(), 3);
        for index in order {
            raw.send(&parts[index]).unwrap();
        }
        let mut buffer = [0; 4096];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..length], packet.payload, "{order:?}");
    }
}

/// A stream goes on when the client's router has another MAC address, of which it tells its neighbours unasked.
fn a_stream_follows_its_clients_router(v6: bool) {
    const NEW: &str = "02:77:00:00:aa:bb";
    let mut fleet = Fleet::new(Plan {
        v6,
        shared: true,
        thinking: [Duration::from_millis(5), Duration::from_millis(100)],
        tokens: 50,
        ..Plan::new(&["one"], "nat")
    })
    .unwrap();
    // The client's own address is behind that of the link, as behind a router.
    let (node, client) = (&fleet.site.node, &fleet.site.client);
    let (far, network, router, gateway): (IpAddr, _, IpAddr, _) = if v6 {
        let router = fleet.site.client_v6().into();
        (FAR_V6.into(), "fd55::/16", router, "fd77::1")
    } else {
        let router = fleet.site.client_v4().into();
        (FAR.into(), "10.55.0.0/16", router, "10.77.0.1")
    };
    let (length, nodad) = if v6 { (128, " nodad") } else { (32, "") };
    let add = format!("ip addr add {far}/{length} dev lo{nodad}");
    run(client, &add);
    let vip = fleet.vip();
    let route = format!("ip route replace {vip} via {gateway} src {far}");
    run(client, &route);
    run(node, &format!("ip route add {network} via {router}"));
    // Its neighbour entry is one that the kernel learns, and removes on request.
    let forget = format!("ip neigh del {router} dev {NODE_CLIENT_PORT}");
    run(node, &forget);
    node.sysctl(&format!("net.ipv4.neigh.{NODE_CLIENT_PORT}.locktime"), "0")
        .unwrap();
    for tells in ["ipv4.conf.eth0.arp_notify", "ipv6.conf.eth0.ndisc_notify"] {
        client.sysctl(&format!("net.{tells}"), "1").unwrap();
    }
    ping_with(node, router, b"where?", LIMIT).unwrap();
    fleet.start().unwrap();
    let address = SocketAddr::new(vip, HTTP);
    let client = &fleet.site.client;
    let streamed = client.enter(|| {
        let mut stream = request(address);
        assert_eq!(stream.local_addr().unwrap().ip(), far);
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let mut moved = false;
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok::<_, std::io::Error>(answer);
            }
            answer.extend_from_slice(&buffer[..length]);
            if !moved && answer.windows(6).filter(|w| w == b"data: ").count() > 3 {
                moved = true;
                run(client, &format!("ip link set {PORT} address {NEW}"));
            }
        }
    });
    let answer = String::from_utf8(streamed.unwrap().unwrap()).unwrap();
    assert!(answer.contains("[DONE]"), "{answer}");
    let neighbour = fleet
        .site
        .node
        .run(&["ip", "neigh", "show", &router.to_string()]);
    assert!(neighbour.unwrap().contains(NEW));
}

#[test]
fn a_stream_goes_on_when_its_clients_router_has_another_mac_address() {
    a_stream_follows_its_clients_router(false);
}

#[test]
fn a_stream_over_ipv6_goes_on_when_its_clients_router_has_another_mac_address() {
    a_stream_follows_its_clients_router(true);
}

#[test]
fn a_late_answer_meets_a_reset_towards_the_client() {
    let mut fleet = Fleet::new(Plan {
        thinking: [Duration::from_secs(4), Duration::from_millis(5)],
        ..Plan::new(&["one"], "nat")
    })
    .unwrap();
    let text = fs::read_to_string(fleet.config_path()).unwrap();
    let name = "name = \"chat\"\n";
    let short = text.replace(name, &format!("{name}idle_timeout = \"1s\"\n"));
    assert_ne!(short, text);
    fs::write(fleet.config_path(), &short).unwrap();
    fleet.start().unwrap();
    let address = SocketAddr::new(fleet.vip(), HTTP);
    let ask = |fleet: &Fleet| {
        let read = || {
            let mut answer = String::new();
            request(address).read_to_string(&mut answer).map(|_| answer)
        };
        fleet.site.client.enter(read).unwrap()
    };
    let error = ask(&fleet).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    // The backend is informed when it continues.
    let backend = &fleet.site.backends[0].namespace;
    wait(LIMIT, "the backend's connection is gone", || {
        let open = backend.run(&["ss", "-Htn", "state", "established", "sport", "=", ":8080"])?;
        Ok(!open.contains("10.98.0.1"))
    })
    .unwrap();
    // With a timeout longer than the answer takes, the answer arrives.
    let long = text.replace(name, &format!("{name}idle_timeout = \"1m\"\n"));
    fs::write(fleet.config_path(), long).unwrap();
    let path = fleet.config_path().display().to_string();
    fleet.cli(&["config", "apply", &path]).unwrap();
    let answer = ask(&fleet).unwrap();
    assert!(answer.contains("[DONE]"), "{answer}");
}

#[test]
fn frames_for_an_address_that_an_interface_gets_are_steered_from_then_on() {
    const NEW: &str = "02:77:00:00:cc:01";
    let mut fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    fleet.start().unwrap();
    let address = SocketAddr::new(fleet.vip(), HTTP);
    let try_once = |fleet: &Fleet| {
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok();
        fleet.site.client.enter(connect).unwrap()
    };
    assert!(try_once(&fleet));
    let to = |fleet: &Fleet, mac: &str| {
        let command = format!("ip neigh replace 10.77.0.1 lladdr {mac} dev {PORT} nud permanent");
        run(&fleet.site.client, &command);
    };
    // A frame for another host, which does not concern the node.
    to(&fleet, NEW);
    assert!(!try_once(&fleet));
    // Address of a device on top of the interface, like those of VRRP.
    let add = format!("ip link add link {NODE_CLIENT_PORT} name vrrp.7 address {NEW} type macvlan");
    run(&fleet.site.node, &add);
    wait(LIMIT, "its frames are steered", || Ok(try_once(&fleet))).unwrap();
    run(&fleet.site.node, "ip link del vrrp.7");
    wait(LIMIT, "they are not any more", || Ok(!try_once(&fleet))).unwrap();
    // From the configuration, and with any address.
    let text = fs::read_to_string(fleet.config_path()).unwrap();
    let path = fleet.config_path().display().to_string();
    for line in [
        format!("macs = [{NEW:?}]"),
        "accept_any_mac = true".to_owned(),
    ] {
        fs::write(
            fleet.config_path(),
            text.replace("[node]\n", &format!("[node]\n{line}\n")),
        )
        .unwrap();
        fleet.cli(&["config", "apply", &path]).unwrap();
        assert!(try_once(&fleet), "{line}");
        fs::write(fleet.config_path(), &text).unwrap();
        fleet.cli(&["config", "apply", &path]).unwrap();
        assert!(!try_once(&fleet), "without {line}");
    }
}

/// Returns the number of frames received on the only interface of a host.
fn frames_in(host: &Namespace) -> u64 {
    let listed = host.run(&["ip", "-j", "-s", "link", "show", PORT]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    listed[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

/// Starts a node that forwards datagrams in mode `l2`.
fn start_l2(node: &Namespace, folder: &Path, bpffs: &Bpffs, setting: &str) -> Process {
    fs::create_dir_all(folder).unwrap();
    let text = format!(
        "[node]\nname = \"edge\"\nregion = \"home\"\ninterfaces = [{PORT:?}]\nstate_dir = \"{at}/state\"\n\
         socket = \"{at}/steer.sock\"\nbpffs = \"{bpffs}\"\n{setting}\n\
         [[backend]]\nname = \"one\"\naddress = \"10.77.0.4\"\nmode = \"l2\"\n\
         [[pool]]\nname = \"all\"\nbackends = [\"one\"]\n\
         [[service]]\nname = \"echo\"\naddress = \"{VIP_V4}\"\nport = 5000\nprotocol = \"udp\"\npools = [\"all\"]\n",
        at = folder.display(),
        bpffs = bpffs.path().display(),
    );
    let config = folder.join("steer.toml");
    fs::write(&config, text).unwrap();
    let mut daemon = Command::new(binary("steer").unwrap());
    daemon.args(["run", "--config"]).arg(config);
    node.spawn_followed(daemon).unwrap()
}

#[test]
fn two_nodes_on_a_segment_that_floods_do_not_multiply_a_frame() {
    let [one, client, two, backend] =
        ["one", "client", "two", "backend"].map(|name| Namespace::create(name).unwrap());
    let addresses = [1, 2, 3, 4].map(|host| format!("10.77.0.{host}/24"));
    let macs = [1, 2, 3, 4].map(|host| format!("02:77:00:00:00:0{host}"));
    let lists = addresses.each_ref().map(|address| [address.as_str()]);
    let end = |host: usize, namespace| End {
        namespace,
        name: PORT,
        mac: &macs[host],
        addresses: &lists[host],
        gro: false,
    };
    let segment = Segment::between(end(0, &one), end(1, &client)).unwrap();
    segment.plug_in_node(end(2, &two)).unwrap();
    segment.plug_in(end(3, &backend)).unwrap();
    segment.flood().unwrap();
    run(&client, &format!("ip route add {VIP_V4} via 10.77.0.1"));
    run(&backend, &format!("ip addr add {VIP_V4}/32 dev lo"));
    let bind = |address: Ipv4Addr, port| UdpSocket::bind((address, port)).unwrap();
    let server = backend.enter(|| bind(VIP_V4, 5000)).unwrap();
    server.set_nonblocking(true).unwrap();
    let sender = client
        .enter(|| bind(Ipv4Addr::new(10, 77, 0, 2), 999))
        .unwrap();
    let send = || assert_eq!(sender.send_to(b"one", (VIP_V4, 5000)).unwrap(), 3);
    let folder = tempfile::tempdir().unwrap();
    let bpffs = [Bpffs::mount().unwrap(), Bpffs::mount().unwrap()];
    for (setting, most) in [("", 9), ("accept_any_mac = true", 500)] {
        let mut daemons = [(&one, "one"), (&two, "two")].map(|(node, name)| {
            let number = usize::from(name == "two");
            start_l2(node, &folder.path().join(name), &bpffs[number], setting)
        });
        for (node, name) in [(&one, "one"), (&two, "two")] {
            let socket = folder
                .path()
                .join(name)
                .join("steer.sock")
                .display()
                .to_string();
            let steer = binary("steer").unwrap().display().to_string();
            wait(LIMIT, "both nodes steer", || {
                Ok(node.run(&[&steer, "status", "--socket", &socket]).is_ok())
            })
            .unwrap();
        }
        wait(LIMIT, "the backend gets datagrams", || {
            send();
            Ok(server.recv(&mut [0; 8]).is_ok())
        })
        .unwrap();
        // Frames in flight end here.
        thread::sleep(Duration::from_millis(500));
        let before = frames_in(&backend);
        send();
        // No event marks that no more frames arrive.
        thread::sleep(Duration::from_millis(500));
        let frames = frames_in(&backend) - before;
        assert!((1..=most).contains(&frames), "{setting:?}: {frames} frames");
        // If frames for others are steered, the nodes do send each other their frames.
        assert!(setting.is_empty() || frames > 9, "{frames} frames");
        daemons.iter_mut().for_each(Process::kill);
    }
}
