use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use steer_probe::pki;

use super::*;

const TEXT: &str = "[node]\nname = \"n1\"\nregion = \"eu\"\ninterfaces = [\"eth0\"]\n[nat]\n\
    addresses = [\"10.0.0.1\"]\n[encap]\nsources = [\"10.0.0.1\"]\n[[backend]]\nname = \"b1\"\n\
    address = \"10.0.1.1\"\nmode = \"nat\"\n[[backend]]\nname = \"b2\"\naddress = \"10.0.1.2\"\n\
    mode = \"ipip\"\n[[pool]]\nname = \"p\"\nbackends = [\"b1\", \"b2\"]\n[[service]]\n\
    name = \"s\"\naddress = \"192.0.2.1\"\nport = 80\npools = [\"p\"]\n";

fn config() -> Config {
    Config::parse(TEXT, Path::new("f.toml")).unwrap()
}

/// Returns the facts of a host without problems.
fn facts() -> Facts {
    let route = |mtu| {
        Ok(Route {
            source: "10.0.0.9".parse().unwrap(),
            mtu: Some(mtu),
        })
    };
    let eth0 = Interface {
        mtu: Some(1500),
        ..Interface::default()
    };
    Facts {
        interfaces: [("eth0".to_owned(), eth0)].into(),
        routes: BTreeMap::from([
            ("10.0.1.1".parse().unwrap(), route(1500)),
            ("10.0.1.2".parse().unwrap(), route(1520)),
        ]),
        local_ports: Some(32_768..=60_999),
        reserved_ports: Vec::new(),
        memory: Some(1 << 30),
        cpus: 4,
        pinned: false,
        bpffs: Some(true),
        links: BTreeMap::from([("eth0".to_owned(), up())]),
        drivers: BTreeMap::from([("eth0".to_owned(), "virtio_net".to_owned())]),
        offloads: BTreeMap::from([("eth0".to_owned(), Offloads::default())]),
        rp_filter: BTreeMap::from([("eth0".to_owned(), 2)]),
        forwarding: BTreeMap::from([("eth0".to_owned(), true)]),
        attached: Vec::new(),
        unresolved: BTreeSet::new(),
        ways: BTreeMap::new(),
        listeners: Vec::new(),
        state_refused: None,
        system: System {
            kernel: Some((6, 12)),
            jit: Some(true),
            lacks: Vec::new(),
            files: Some(1024),
            clock_in_sync: Some(true),
        },
    }
}

fn up() -> Link {
    Link {
        up: true,
        ..Link::default()
    }
}

fn said(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut facts = facts();
    change(&mut facts);
    let findings = judge(&config(), &facts, true);
    findings.iter().map(ToString::to_string).collect()
}

fn route(facts: &mut Facts, address: &str, change: impl FnOnce(&mut Route)) {
    let route = facts
        .routes
        .get_mut(&address.parse::<std::net::IpAddr>().unwrap());
    change(route.unwrap().as_mut().unwrap());
}

#[track_caller]
fn finds(words: &[&str], change: impl FnOnce(&mut Facts)) {
    let said = said(change);
    assert_eq!(said.len(), 1, "{said:?}");
    for word in words {
        assert!(said[0].contains(word), "{word:?} is not in {:?}", said[0]);
    }
}

#[test]
fn a_host_that_is_as_it_should_be_is_left_alone() {
    assert!(said(|_| {}).is_empty());
}

#[test]
fn each_thing_that_does_not_fit_is_found() {
    finds(&["interface eth0", "9000", "mtu 3506"], |f| {
        f.interfaces.get_mut("eth0").unwrap().mtu = Some(9000);
        route(f, "10.0.1.2", |r| r.mtu = Some(9100));
    });
    finds(
        &[
            "backends b2",
            "1500 bytes",
            "1520 with their outer headers",
            "advmss 1440",
        ],
        |f| {
            route(f, "10.0.1.2", |r| r.mtu = Some(1500));
        },
    );
    finds(
        &["backends b1", "unreachable", "ip route get 10.0.1.1"],
        |f| {
            let address = "10.0.1.1".parse().unwrap();
            f.routes
                .insert(address, Err("Network is unreachable".to_owned()));
        },
    );
    finds(&["MiB"], |f| f.memory = Some(10 << 20));
    finds(&["mount -t bpf"], |f| f.bpffs = Some(false));
    let used = |f: &mut Facts| route(f, "10.0.1.1", |r| r.source = "10.0.0.1".parse().unwrap());
    finds(
        &["10.0.0.1", "32768 to 59999", "reserved_ports=20000-59999"],
        used,
    );
    assert!(
        said(|f| {
            used(f);
            f.reserved_ports = facts::ranges("80,20000-40000,40001-59999\n");
        })
        .is_empty()
    );
    finds(&["41000 to 59999"], |f| {
        used(f);
        f.reserved_ports = facts::ranges("30000-40999");
    });
    // The memory of an earlier daemon's maps is not needed again.
    assert!(
        said(|f| {
            f.memory = Some(10 << 20);
            f.pinned = true;
        })
        .is_empty()
    );
}

/// Returns the findings about a host with their severity.
fn worded(config: &Config, facts: &Facts) -> Vec<String> {
    let findings = judge(config, facts, true);
    let worded = findings.iter().map(|f| format!("{}: {f}", f.severity));
    worded.collect()
}

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
fn segment_sizes_fit_the_headers_of_each_family() {
    let six = TEXT
        .replace("192.0.2.1", "2001:db8::80")
        .replace("[\"b1\", \"b2\"]", "[\"b2\"]");
    let both = format!(
        "{six}[[service]]\nname = \"t\"\naddress = \"192.0.2.1\"\nport = 80\npools = [\"p\"]\n"
    );
    for (text, says) in [
        (TEXT, "MSS: `ip route change ... advmss 1440` there"),
        (&six, "MSS: `ip -6 route change ... advmss 1420` there"),
        (
            &both,
            "MSS: `ip -6 route change ... advmss 1420` and `ip route change ... advmss 1440` there",
        ),
    ] {
        let config = Config::parse(text, Path::new("f.toml")).unwrap();
        let mut facts = facts();
        route(&mut facts, "10.0.1.2", |r| r.mtu = Some(1500));
        let said = worded(&config, &facts);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with(says), "{says:?}: {said:?}");
    }
}

/// Checks the parser with tables written by the kernel.
#[test]
fn listeners_are_read() {
    let four = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 00000000\n   \
                1: 00000000:0050 00000000:0000 0A 0\n   2: 0100007F:0051 0100007F:9999 01 0\n";
    let words = |table: &str| -> Vec<String> {
        let found = facts::listening(table).into_iter();
        found.map(|at| at.to_string()).collect()
    };
    assert_eq!(words(four), ["127.0.0.1:8080", "0.0.0.0:80"]);
    let six = "  sl\n   0: B80D0120000000000000000001000000:0050 0:0 0A 0\n";
    assert_eq!(words(six), ["[2001:db8::1]:80"]);
    assert_eq!(words("junk\n 0: 12:34\n"), [""; 0]);
}

#[test]
fn a_key_of_another_certificate_is_fatal_wherever_it_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    pki::init(folder.path()).unwrap();
    for name in ["n1", "other"] {
        let identity = pki::Identity::new(pki::IdentityKind::Node, "eu", name).unwrap();
        let validity = pki::Validity::for_next(Duration::from_secs(90 * 86_400));
        pki::issue(folder.path(), &identity, validity, &[]).unwrap();
    }
    std::fs::write(folder.path().join("garbage"), [0x80, 0xff, 0x00]).unwrap();
    let mut config = config();
    config.node.interfaces = vec!["no-such-if".to_owned()];
    for (files, key, says) in [
        (
            ["ca.pem", "n1.pem", "other.key"],
            "key",
            "other.key does not belong to the certificate",
        ),
        (
            ["ca.pem", "n1.key", "n1.key"],
            "cert",
            "it is a private key, not a certificate",
        ),
        (["garbage", "n1.pem", "n1.key"], "ca", "it is not text"),
        (
            ["n1.key", "n1.pem", "n1.key"],
            "ca",
            "it is a private key, not a certificate",
        ),
        (
            ["ca.pem", "n1.pem", "other.pem"],
            "key",
            "not usable as PEM",
        ),
    ] {
        let [ca, cert, own] = files.map(|file| folder.path().join(file));
        config.probe.files = Some(steer_core::config::ProbeFiles { ca, cert, key: own });
        let findings = check(&config);
        let fatal: Vec<_> = findings
            .iter()
            .filter(|f| f.key.is_some_and(|(section, _)| section == "probe"))
            .collect();
        let [found] = &fatal[..] else {
            panic!("{files:?}: {findings:#?}");
        };
        assert_eq!(
            (found.severity, found.key),
            (Severity::Fatal, Some(("probe", key))),
            "{files:?}"
        );
        assert!(found.to_string().contains(says), "{says:?}: {found}");
    }
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

#[test]
fn the_worst_comes_first_and_a_process_is_not_always_asked_about() {
    let mut facts = facts();
    facts.system.clock_in_sync = Some(false);
    facts.system.jit = Some(false);
    facts.bpffs = Some(false);
    let severities = |process| {
        let findings = judge(&config(), &facts, process);
        findings.iter().map(|f| f.severity).collect::<Vec<_>>()
    };
    use Severity::{Fatal, Note, Warning};
    assert_eq!(severities(true), [Fatal, Warning, Note]);
    assert_eq!(severities(false), [Fatal, Warning]);
}

#[test]
fn versions_and_capabilities_are_read() {
    assert_eq!(system::version("6.1.0-18-amd64"), Some((6, 1)));
    assert_eq!(system::version("5.10"), Some((5, 10)));
    assert_eq!(system::version("?"), None);
    let lacks = |bits: &str| system::lacks(&format!("Name:\tx\nCapEff:\t{bits}\n"));
    assert_eq!(lacks("000001ffffffffff"), [""; 0]);
    assert_eq!(lacks("000000c000001000"), [""; 0]);
    assert_eq!(lacks("0000000000200000"), ["CAP_NET_ADMIN"]);
    assert_eq!(lacks("0"), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
}

#[test]
fn elsewhere_than_on_the_node_only_that_is_said() {
    let mut config = config();
    config.node.interfaces = vec!["no-such-if".to_owned()];
    let findings = check(&config);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0]
            .to_string()
            .contains("this host has no interface"),
        "{findings:?}"
    );
}

/// Checks facts about the loopback interface, which hold on every host.
#[test]
fn facts_are_read_from_this_host() {
    let mut config = config();
    config.backends[0].address = "127.0.0.1".parse().unwrap();
    config.backends[1].address = "::1".parse().unwrap();
    let facts = Facts::read(&config);
    let lo = &facts.interfaces["lo"];
    assert!(lo.loopback && lo.addresses.contains(&config.backends[0].address));
    assert_eq!(lo.mtu, Some(65_536));
    let route = facts.routes[&config.backends[0].address].clone().unwrap();
    assert_eq!(route.source, config.backends[0].address);
    assert!(route.mtu.unwrap() >= 65_535, "{route:?}");
    assert!(facts.memory.unwrap() > 1 << 20);
    assert!(facts.local_ports.is_some() && facts.cpus >= 1);
    assert!(facts.links["lo"].up);
    assert!(facts.system.kernel.unwrap() >= (5, 0));
    assert!(facts.system.files.unwrap() > 0);
}

#[test]
fn certificates_are_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let issue = |name: &str, days: u64| {
        let identity = pki::Identity::new(pki::IdentityKind::Node, "eu", name).unwrap();
        let life = Duration::from_secs(days * 86_400);
        let validity = pki::Validity::for_next(life);
        pki::issue(folder.path(), &identity, validity, &[]).unwrap();
    };
    pki::init(folder.path()).unwrap();
    issue("n1", 90);
    issue("n2", 90);
    let said = |name: &str, now: SystemTime| {
        let path = |end: &str| folder.path().join(end);
        let mut config = config();
        config.probe.files = Some(steer_core::config::ProbeFiles {
            ca: path("ca.pem"),
            cert: path(&format!("{name}.pem")),
            key: path(&format!("{name}.key")),
        });
        let findings = certificates::check(&config, now);
        findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    assert_eq!(said("n1", now), [""; 0]);
    assert!(said("n1", now + 80 * day)[0].contains("it ends "));
    assert!(said("n1", now + 91 * day)[0].contains("it ended "));
    let early = said("n1", now - 30 * day);
    assert!(early[0].contains("set-ntp true"), "{early:?}");
    assert!(said("n2", now)[0].contains("this node is n1 in eu"));
    assert!(said("none", now)[0].contains("steer pki issue node"));
}

#[test]
fn certificates_of_the_api_are_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let day = Duration::from_secs(86_400);
    let issue = |of: &Path, kind, name: &str, days: u32| {
        let identity = pki::Identity::new(kind, "eu", name).unwrap();
        pki::issue(of, &identity, pki::Validity::for_next(days * day), &[]).unwrap();
    };
    let other = place("other");
    for of in [folder.path(), &other] {
        pki::init(of).unwrap();
        issue(of, pki::IdentityKind::Api, "n1-api", 90);
    }
    issue(folder.path(), pki::IdentityKind::Operator, "alice", 90);
    let said = |[cert, key, ca]: [&str; 3], now: SystemTime| {
        let mut config = config();
        config.api.remote = Some(steer_core::config::Remote {
            address: "10.0.0.1:9443".parse().unwrap(),
            cert: place(cert),
            key: place(key),
            ca: place(ca),
        });
        let findings = certificates::check(&config, now);
        // The API still answers on the socket.
        assert!(findings.iter().all(|f| f.severity == Severity::Warning));
        findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let good = ["n1-api.pem", "n1-api.key", "ca.pem"];
    let now = SystemTime::now();
    assert_eq!(said(good, now), [""; 0]);
    let anew = "`steer pki issue api n1-api --region eu --host 10.0.0.1`";
    for (files, when, says) in [
        (good, now + 80 * day, &["it ends ", anew][..]),
        (good, now + 91 * day, &["it ended ", anew]),
        (good, now - 30 * day, &["set-ntp true"]),
        (
            ["none.pem", "n1-api.key", "ca.pem"],
            now,
            &["[api] cert and key", "none.pem", "`steer pki issue api`"],
        ),
        (
            ["n1-api.pem", "none.key", "ca.pem"],
            now,
            &["none.key", "`steer pki issue api`"],
        ),
        (
            ["n1-api.pem", "n1-api.pem", "ca.pem"],
            now,
            &["n1-api.pem: not usable as PEM"],
        ),
        (
            ["n1-api.pem", "n1-api.key", "none.pem"],
            now,
            &["[api] ca", "none.pem"],
        ),
        (
            ["n1-api.pem", "other/n1-api.key", "ca.pem"],
            now,
            &[
                "other/n1-api.key",
                "does not belong to the certificate",
                anew,
            ],
        ),
        (
            ["n1-api.pem", "n1-api.key", "other/ca.pem"],
            now,
            &["other/ca.pem", "another CA issued it", anew],
        ),
        (
            ["alice.pem", "alice.key", "ca.pem"],
            now,
            &["it is for steer://operator/eu/alice", "kind api", anew],
        ),
    ] {
        let said = said(files, when);
        let [said] = &said[..] else {
            panic!("{files:?}: {said:#?}");
        };
        for part in says {
            assert!(said.contains(part), "{files:?}: {part:?} is not in {said}");
        }
    }
    // Ten years later all have expired, and the CA counts even with one half of another pair.
    let late = said(good, now + 3700 * day);
    assert!(
        late.len() == 2
            && late[0].contains("ca.pem: it ended ")
            && late[0].contains("steer pki init"),
        "{late:?}"
    );
}

#[test]
fn the_authority_of_a_collector_is_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    pki::init(folder.path()).unwrap();
    let said = |ca: Option<&str>, now: SystemTime| {
        let mut config = config();
        config.otlp = Some(steer_core::config::Otlp {
            host: "collector".to_owned(),
            port: 4318,
            path: "/v1/metrics".to_owned(),
            ca: ca.map(|ca| folder.path().join(ca)),
            interval: Duration::from_secs(15),
        });
        let findings = certificates::check(&config, now);
        assert!(findings.iter().all(|f| f.severity == Severity::Warning));
        findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let now = SystemTime::now();
    let late = now + Duration::from_secs(3700 * 86_400);
    assert_eq!(said(None, now), [""; 0]);
    assert_eq!(said(Some("ca.pem"), now), [""; 0]);
    let [ended] = &said(Some("ca.pem"), late)[..] else {
        panic!("not one finding");
    };
    assert!(ended.contains("ca.pem: it ended "), "{ended}");
    // A key is not a certificate.
    for wrong in ["none.pem", "ca.key"] {
        let [unusable] = &said(Some(wrong), now)[..] else {
            panic!("not one finding of {wrong}");
        };
        for part in ["[telemetry] otlp_ca", wrong, "metrics cannot be exported"] {
            assert!(unusable.contains(part), "{part:?} is not in {unusable}");
        }
    }
}
