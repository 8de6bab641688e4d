use std::{collections::BTreeMap, path::Path, time::Duration};

use super::*;
use crate::pki;

const TEXT: &str = "[node]\nname = \"n1\"\nregion = \"eu\"\ninterfaces = [\"eth0\"]\n[nat]\n\
    addresses = [\"10.0.0.1\"]\n[encap]\nsources = [\"10.0.0.1\"]\n[[backend]]\nname = \"b1\"\n\
    address = \"10.0.1.1\"\nmode = \"nat\"\n[[backend]]\nname = \"b2\"\naddress = \"10.0.1.2\"\n\
    mode = \"ipip\"\n[[pool]]\nname = \"p\"\nbackends = [\"b1\", \"b2\"]\n[[service]]\n\
    name = \"s\"\naddress = \"192.0.2.1\"\nport = 80\npools = [\"p\"]\n";

fn config() -> Config {
    Config::parse(TEXT, Path::new("f.toml")).unwrap()
}

/// A host that is as it should be.
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
    }
}

fn said(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut facts = facts();
    change(&mut facts);
    let findings = rules::all(&config(), &facts);
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
    // What an earlier daemon has is not needed again.
    assert!(
        said(|f| {
            f.memory = Some(10 << 20);
            f.pinned = true;
        })
        .is_empty()
    );
}

#[test]
fn elsewhere_than_on_the_node_only_that_is_said() {
    let mut config = config();
    config.node.interfaces = vec!["no-such-if".to_owned()];
    let findings = check(&config);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].to_string().contains("this host has none"),
        "{findings:?}"
    );
}

/// What the kernel says of the loopback is true everywhere.
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
}

#[test]
fn certificates_are_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let issue = |name: &str, days: u64| {
        let identity = pki::Identity::new(pki::IdentityKind::Node, "eu", name).unwrap();
        let life = Duration::from_secs(days * 86_400);
        let validity = pki::Validity::for_next(life);
        pki::issue(folder.path(), &identity, validity).unwrap();
    };
    pki::init(folder.path()).unwrap();
    issue("n1", 90);
    issue("n2", 90);
    let said = |name: &str, now: SystemTime| {
        let path = |end: &str| folder.path().join(end);
        let mut config = config();
        config.probe.files = Some(crate::config::ProbeFiles {
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
    assert!(said("n2", now)[0].contains("this node is n1 in eu"));
    assert!(said("none", now)[0].contains("steer pki issue node"));
}
