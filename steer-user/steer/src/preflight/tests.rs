mod certificate_files;
mod host;

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
