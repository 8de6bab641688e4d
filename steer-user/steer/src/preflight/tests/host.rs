//! Findings about the host, with the command that mends each.

use super::*;

/// Makes eth0 a veth whose peer is in this namespace.
fn peer(facts: &mut Facts, set: impl FnOnce(&mut Offloads)) {
    let link = facts.links.get_mut("eth0").unwrap();
    (link.kind, link.peer) = ("veth".to_owned(), Some("far0".to_owned()));
    let mut offloads = Offloads::default();
    set(&mut offloads);
    facts.offloads.insert("far0".to_owned(), offloads);
}

fn way(facts: &mut Facts, backend: &str, interface: &str) {
    let way = Way {
        interface: interface.to_owned(),
        ..Way::default()
    };
    facts.ways.insert(backend.parse().unwrap(), way);
}

fn change_way(facts: &mut Facts, change: impl Fn(&mut Way)) {
    facts.ways.values_mut().for_each(change);
}

/// Gives the host the service's address.
fn own_vip(facts: &mut Facts) {
    let lo = Interface {
        loopback: true,
        addresses: vec!["192.0.2.1".parse().unwrap()],
        ..Interface::default()
    };
    facts.interfaces.insert("lo".to_owned(), lo);
}

/// Adds a direct-return backend that routes through a node with the service's address.
fn trap(facts: &mut Facts) {
    own_vip(facts);
    way(facts, "10.0.1.2", "eth0");
    change_way(facts, |way| (way.on_link, way.forwards) = (true, true));
}

#[test]
fn each_thing_of_the_host_is_found_with_the_command_that_mends_it() {
    let native = config();
    let mut generic = config();
    generic.node.xdp_mode = steer_core::config::XdpMode::Generic;
    let eth1 = |f: &mut Facts| {
        f.interfaces.insert("eth1".to_owned(), Interface::default());
    };
    type Change<'a> = &'a dyn Fn(&mut Facts);
    let offload = |f: &mut Facts, set: fn(&mut Offloads)| set(f.offloads.get_mut("eth0").unwrap());
    let cases: &[(&Config, Change<'_>, &str, &str)] = &[
        (
            &native,
            &|f| f.system.kernel = Some((5, 10)),
            "fatal: kernel: Linux 5.10 is too old",
            "needs 6.1 or later; boot a newer kernel",
        ),
        (
            &native,
            &|f| f.system.kernel = Some((6, 0)),
            "fatal: kernel: Linux 6.0 is too old",
            "6.1",
        ),
        (
            &native,
            &|f| f.system.jit = Some(false),
            "warning: net.core.bpf_jit_enable",
            "=1`",
        ),
        (
            &native,
            &|f| f.system.files = Some(32),
            "warning: open files",
            "`ulimit -n 64`",
        ),
        (
            &native,
            &|f| f.system.clock_in_sync = Some(false),
            "note: clock",
            "set-ntp true`",
        ),
        (
            &native,
            &|f| f.system.lacks = vec!["CAP_BPF", "CAP_PERFMON"],
            "fatal: capabilities: the process lacks CAP_BPF, CAP_PERFMON",
            "--ambient-caps +bpf,+perfmon ",
        ),
        (
            &native,
            &|f| f.links.get_mut("eth0").unwrap().up = false,
            "warning: interface eth0: it is down",
            "`ip link set dev eth0 up`",
        ),
        (
            &native,
            &|f| f.links.get_mut("eth0").unwrap().kind = "bridge".to_owned(),
            "fatal: interface eth0: ",
            "xdp_mode = \"generic\"",
        ),
        (
            &native,
            &|f| f.links.get_mut("eth0").unwrap().program = Some(77),
            "fatal: interface eth0: another XDP program is attached to it, with id 77",
            "`ip link set dev eth0 xdp off`",
        ),
        (
            &native,
            &|f| offload(f, |o| o.lro = true),
            "warning: interface eth0: lro is on",
            "`ethtool -K eth0 lro off`",
        ),
        (
            &generic,
            &|f| offload(f, |o| o.gro = true),
            "fatal: interface eth0: gro is on",
            "`ethtool -K eth0 gro off`",
        ),
        (
            &generic,
            &|f| {
                f.links.get_mut("eth0").unwrap().kind = "bridge".to_owned();
                offload(f, |o| o.gro = true);
                let port = Link {
                    controller: Some("eth0".to_owned()),
                    ..up()
                };
                f.links.insert("c0".to_owned(), port);
                let joins = Offloads {
                    gro: true,
                    ..Offloads::default()
                };
                f.offloads.insert("c0".to_owned(), joins);
            },
            "fatal: interface c0, of eth0: gro is on",
            "`ethtool -K c0 gro off`",
        ),
        (
            &generic,
            &|f| f.links.get_mut("eth0").unwrap().kind = "veth".to_owned(),
            "warning: interface eth0: its peer may send packets of up to 64 KiB",
            "write xdp_mode = \"native\", which veth supports, or `ethtool -K ... tso off gso off`",
        ),
        (
            &generic,
            &|f| peer(f, |o| o.tso = true),
            "warning: interface eth0: its peer may send",
            "`ethtool -K far0 tso off gso off`",
        ),
        (
            &native,
            &|f| peer(f, |_| ()),
            "warning: interface eth0: frames that the program sends on it arrive only",
            "`ethtool -K far0 gro on`",
        ),
        (
            &native,
            &|f| f.links.get_mut("eth0").unwrap().kind = "veth".to_owned(),
            "note: interface eth0: frames that the program sends",
            "in the peer's namespace",
        ),
        (
            &native,
            &|f| way(f, "10.0.1.1", "eth1"),
            "warning: [node] interfaces: the route to backends b1 leads through eth1, where no \
             program",
            "write interfaces = [\"eth0\", \"eth1\"]",
        ),
        (
            &native,
            &|f| trap(f),
            "warning: service s: 192.0.2.1 is an address of this host, on lo, and backends b2",
            "`ip addr del 192.0.2.1/32 dev lo`, or use another gateway for the backends, or \
             `sysctl -w net.ipv4.conf.eth0.accept_local=1",
        ),
        (
            &native,
            &|f| {
                own_vip(f);
                f.listeners.push("0.0.0.0:80".parse().unwrap());
            },
            "note: service s: a process of this host also listens on 192.0.2.1:80",
            "`ss -ltnp`",
        ),
        (
            &native,
            &|f| f.state_refused = Some("Read-only file system".to_owned()),
            "warning: /var/lib/steer: it cannot be written (Read-only file system)",
            "`install -d -m 0750 /var/lib/steer`",
        ),
        (
            &native,
            &|f| {
                offload(f, |o| o.rxvlan = true);
                f.links.get_mut("eth0").unwrap().vlans = true;
            },
            "warning: interface eth0: rxvlan is on",
            "`ethtool -K eth0 rxvlan off`",
        ),
        (
            &native,
            &|f| {
                eth1(f);
                f.rp_filter.insert("eth0".to_owned(), 1);
            },
            "warning: net.ipv4.conf.eth0.rp_filter",
            "`sysctl -w net.ipv4.conf.eth0.rp_filter=2`",
        ),
        (
            &native,
            &|f| {
                f.forwarding.insert("eth0".to_owned(), false);
            },
            "note: net.ipv4.conf.eth0.forwarding",
            "forwarding=1`",
        ),
        (
            &native,
            &|f| {
                f.unresolved.insert("10.0.1.2".parse().unwrap());
            },
            "warning: backend b2: the next hop to 10.0.1.2",
            "`ip neigh`",
        ),
        (
            &native,
            &|f| f.bpffs = Some(false),
            "fatal: /sys/fs/bpf",
            "`mount -t bpf bpf /sys/fs/bpf`",
        ),
    ];
    for (config, change, begins, has) in cases {
        let mut facts = facts();
        change(&mut facts);
        let said = worded(config, &facts);
        assert_eq!(said.len(), 1, "{begins}: {said:?}");
        assert!(said[0].starts_with(begins), "{begins:?}: {said:?}");
        assert!(said[0].contains(has), "{has:?}: {said:?}");
    }
    // Each change alone has no effect.
    let below = |f: &mut Facts| {
        way(f, "10.0.1.1", "eth0.30");
        let vlan = Link {
            below: Some("eth0".to_owned()),
            ..up()
        };
        f.links.insert("eth0.30".to_owned(), vlan);
    };
    let bridged = |f: &mut Facts| {
        way(f, "10.0.1.1", "br0");
        f.links.insert("br0".to_owned(), up());
        f.links.get_mut("eth0").unwrap().controller = Some("br0".to_owned());
    };
    for (config, change) in [
        (&generic, &(|f: &mut Facts| peer(f, |_| ())) as Change<'_>),
        (&native, &|f| peer(f, |o| o.gro = true)),
        (&native, &|f| way(f, "10.0.1.1", "eth0")),
        // Direct-return backends.
        (&native, &|f| way(f, "10.0.1.2", "eth1")),
        (&native, &below),
        (&native, &bridged),
        (&native, &own_vip),
        (&native, &|f| {
            trap(f);
            change_way(f, |way| way.accepts_local = true);
        }),
        (&native, &|f| {
            trap(f);
            change_way(f, |way| way.on_link = false);
        }),
        (&native, &|f| {
            trap(f);
            change_way(f, |way| way.forwards = false);
        }),
        (&native, &|f| {
            own_vip(f);
            f.listeners.push("192.0.2.1:81".parse().unwrap());
        }),
        // A native program of ours keeps it enabled while attached.
        (&generic, &|f| {
            peer(f, |_| ());
            offload(f, |o| o.gro = true);
            f.attached.push("eth0".to_owned());
        }),
        (&native, &|f: &mut Facts| offload(f, |o| o.gro = true)),
        (&native, &|f| offload(f, |o| o.rxvlan = true)),
        (&native, &|f| {
            f.rp_filter.insert("eth0".to_owned(), 1);
        }),
        (&generic, &|f| {
            f.links.get_mut("eth0").unwrap().kind = "bridge".to_owned()
        }),
        // Our own program.
        (&native, &|f| {
            f.links.get_mut("eth0").unwrap().program = Some(77);
            f.attached.push("eth0".to_owned());
        }),
        (&native, &eth1),
    ] {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(worded(config, &facts), [""; 0]);
    }
}
