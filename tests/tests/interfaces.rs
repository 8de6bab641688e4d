//! Interfaces that vanish, return and change, under a running daemon; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use steer_tests::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::Load,
    pass::Pass,
    summary::Summary,
    topology::{NODE_CLIENT_PORT, PORT},
};

const LIMIT: Duration = Duration::from_secs(10);

fn fleet(mode: &'static str) -> Fleet {
    let mut fleet = Fleet::new(Plan::new(&["one", "two"], mode)).unwrap();
    fleet.start().unwrap();
    fleet
}

fn ask(fleet: &Fleet) -> Summary {
    let load = Load {
        duration: Duration::from_millis(300),
        timeout: Duration::from_secs(3),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    };
    let samples = load.run_in(&fleet.site.client).unwrap();
    let errors: Vec<_> = samples.iter().filter_map(|s| s.error.clone()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert!(!samples.is_empty());
    Summary::from_samples(&samples)
}

/// Returns the state of an interface in the status.
fn attached(fleet: &Fleet, interface: &str) -> Value {
    let status = fleet.status().unwrap();
    let all = status["attached"].as_array().unwrap();
    let found = all.iter().find(|i| i["interface"] == interface);
    found.unwrap_or_else(|| panic!("{status}")).clone()
}

#[test]
fn clients_on_one_interface_reach_backends_on_two_others() {
    let fleet = fleet("nat");
    for name in ["one", "two"] {
        let other = if name == "one" { "two" } else { "one" };
        fleet.cli(&["backend", "drain", other]).unwrap();
        let summary = ask(&fleet);
        assert_eq!(summary.share(name), 1.0, "{:?}", summary.answers);
        fleet.cli(&["backend", "undrain", other]).unwrap();
    }
    for interface in [NODE_CLIENT_PORT, "backend0", "backend1"] {
        assert_eq!(attached(&fleet, interface)["mode"], "native");
    }
}

#[test]
fn an_interface_that_goes_and_comes_back_is_attached_to_anew() {
    let fleet = fleet("nat");
    ask(&fleet);
    let before = attached(&fleet, NODE_CLIENT_PORT)["index"].clone();
    fleet.site.cut_client().unwrap();
    wait(LIMIT, "the status says that it is gone", || {
        Ok(attached(&fleet, NODE_CLIENT_PORT)["mode"].is_null())
    })
    .unwrap();
    let said = fleet.cli(&["status"]).unwrap();
    assert!(
        said.contains("warning: client is not attached") && said.contains("no such interface"),
        "{said}"
    );
    fleet.site.join_client().unwrap();
    wait(LIMIT, "it is attached again", || {
        Ok(attached(&fleet, NODE_CLIENT_PORT)["mode"] == "native")
    })
    .unwrap();
    assert_ne!(attached(&fleet, NODE_CLIENT_PORT)["index"], before);
    ask(&fleet);
}

#[test]
fn a_backend_whose_mac_address_changes_is_found_at_its_new_one() {
    const NEW: &str = "02:77:00:00:aa:aa";
    let fleet = fleet("nat");
    fleet.cli(&["backend", "drain", "two"]).unwrap();
    ask(&fleet);
    let backend = &fleet.site.backends[0];
    let change = ["ip", "link", "set", PORT, "address", NEW];
    backend.namespace.run(&change).unwrap();
    // The kernel does the same for a neighbour that is not permanent.
    for address in [backend.v4.to_string(), backend.v6.to_string()] {
        let command = [
            "ip",
            "neigh",
            "replace",
            &address,
            "lladdr",
            NEW,
            "dev",
            &backend.node_port,
            "nud",
            "permanent",
        ];
        fleet.site.node.run(&command).unwrap();
    }
    wait(LIMIT, "it answers at its new address", || {
        let load = Load {
            duration: Duration::from_millis(100),
            timeout: Duration::from_millis(300),
            ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
        };
        let samples = load.run_in(&fleet.site.client)?;
        Ok(!samples.is_empty() && samples.iter().all(|sample| sample.error.is_none()))
    })
    .unwrap();
}

/// Checks path MTU discovery after an MTU change: the client sends packets of its own link's size,
/// and the node reports the smaller MTU.
#[test]
fn a_way_whose_mtu_changes_is_known_from_then_on() {
    let fleet = fleet("nat");
    let _pass = Pass::attach(&fleet.site.client, PORT).unwrap();
    fleet.cli(&["backend", "drain", "two"]).unwrap();
    let too_big = || -> u64 {
        let status = fleet.status().unwrap();
        status["drops"]["too-big"].as_u64().unwrap_or(0)
    };
    send_much(&fleet);
    assert_eq!(too_big(), 0);
    let port = &fleet.site.backends[0].node_port;
    let command = ["ip", "link", "set", port, "mtu", "1300"];
    fleet.site.node.run(&command).unwrap();
    wait(LIMIT, "clients are told", || {
        send_much(&fleet);
        Ok(too_big() > 0)
    })
    .unwrap();
}

/// Sends a long request, and waits for the answer's first byte.
fn send_much(fleet: &Fleet) {
    let address = SocketAddr::new(fleet.vip(), HTTP);
    let answered = fleet.site.client.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let body = vec![b'x'; 60_000];
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: steer\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        stream.read(&mut [0; 1]).unwrap()
    });
    assert_eq!(answered.unwrap(), 1);
}

#[test]
fn generic_mode_is_only_where_it_is_configured_and_shows() {
    let fleet = fleet("nat");
    let native = fs::read_to_string(fleet.config_path()).unwrap();
    let generic = native.replace("[node]\n", "[node]\nxdp_mode = \"generic\"\n");
    let path = fleet.config_path().display().to_string();
    for (text, mode) in [(&generic, "generic"), (&native, "native")] {
        fs::write(fleet.config_path(), text).unwrap();
        fleet.cli(&["config", "apply", &path]).unwrap();
        for interface in [NODE_CLIENT_PORT, "backend0", "backend1"] {
            assert_eq!(attached(&fleet, interface)["mode"], mode, "{interface}");
        }
        let said = fleet.cli(&["status"]).unwrap();
        assert_eq!(
            said.contains("warning: client is attached in generic mode"),
            mode == "generic",
            "{said}"
        );
    }
    ask(&fleet);
}

#[test]
fn an_interface_with_another_program_is_refused_and_nothing_changes() {
    let mut fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    let pass = Pass::attach(&fleet.site.node, "backend0").unwrap();
    let config = fleet.config_path().display().to_string();
    let said = format!(
        "{:#}",
        fleet.in_node(&["run", "--config", &config]).unwrap_err()
    );
    // The check of the host before the start finds it.
    for part in ["backend0", "another XDP program", "with id", "bpftool link"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    drop(pass);
    fleet.start().unwrap();
    ask(&fleet);
}

#[test]
fn tables_that_would_have_to_grow_are_refused_until_a_restart() {
    let mut fleet = fleet("nat");
    let path = fleet.config_path().display().to_string();
    let text = fs::read_to_string(fleet.config_path()).unwrap();
    fs::write(
        fleet.config_path(),
        format!("{text}\n[limits]\nnat_flows = 300000\n"),
    )
    .unwrap();
    let said = format!("{:#}", fleet.cli(&["config", "apply", &path]).unwrap_err());
    assert!(
        said.contains("limits.nat_flows") && said.contains("restart"),
        "{said}"
    );
    fleet.kill_daemon();
    fleet.start().unwrap();
    ask(&fleet);
    let said = fleet.cli(&["status", "--memory", "--json"]).unwrap();
    let memory: Value = serde_json::from_str(&said).unwrap();
    let maps = memory["maps"].as_array().unwrap();
    let table = maps
        .iter()
        .find(|map| map["name"] == "NAT_FORWARD")
        .unwrap();
    assert_eq!(table["entries"], 300_000);
    let all: u64 = maps.iter().map(|map| map["bytes"].as_u64().unwrap()).sum();
    assert_eq!(memory["total_bytes"], all);
    assert!(
        fleet
            .cli(&["status", "--memory"])
            .unwrap()
            .contains("locked KiB")
    );
}

/// Checks that `/readyz` and `steer doctor` agree about an interface.
fn agree(fleet: &Fleet, interface: &str, is_attached: bool) -> bool {
    let socket = fleet.path("steer.sock").display().to_string();
    let curl = ["curl", "-s", "--unix-socket", &socket, "http://x/readyz"];
    let ready: Value = serde_json::from_str(&fleet.site.node.run(&curl).unwrap()).unwrap();
    let lacking = ready["not_attached"].as_array().unwrap();
    let status = attached(fleet, interface);
    lacking.contains(&interface.into()) != is_attached && status["failure"].is_null() == is_attached
}

#[test]
fn an_interface_that_is_renamed_and_back_is_attached_again() {
    let fleet = fleet("nat");
    ask(&fleet);
    let rename = |from: &str, to: &str| {
        for command in [
            &["ip", "link", "set", from, "down"][..],
            &["ip", "link", "set", from, "name", to],
            &["ip", "link", "set", to, "up"],
        ] {
            fleet.site.node.run(command).unwrap();
        }
    };
    rename("backend1", "elsewhere");
    wait(LIMIT, "all say that it is gone", || {
        Ok(agree(&fleet, "backend1", false))
    })
    .unwrap();
    rename("elsewhere", "backend1");
    wait(LIMIT, "all say that it is back", || {
        Ok(agree(&fleet, "backend1", true))
    })
    .unwrap();
    assert_eq!(attached(&fleet, "backend1")["mode"], "native");
}

/// Returns the pins of all links, of whatever version of the maps.
fn link_pins(pins: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let versions = entries(pins);
    let links = versions.iter().map(|version| version.join("links"));
    links.flat_map(|folder| entries(&folder)).collect()
}

#[test]
fn pins_that_are_removed_under_a_daemon_are_made_again() {
    let mut fleet = fleet("nat");
    ask(&fleet);
    let pins = fleet.bpffs().join("steer");
    let links = link_pins(&pins);
    assert_eq!(links.len(), 3, "{links:?}");
    fs::remove_dir_all(&pins).unwrap();
    wait(LIMIT, "it is attached again", || {
        // The kernel detaches some time after the last pin of a link is gone: until then the
        // interfaces look as before.
        Ok(links.iter().all(|link| link.exists())
            && fleet
                .site
                .node
                .run(&["ip", "-d", "link"])?
                .matches("prog/xdp")
                .count()
                == 3
            && agree(&fleet, NODE_CLIENT_PORT, true))
    })
    .unwrap();
    ask(&fleet);
    // The next daemon reuses the maps, and locks the new folder.
    let config = fleet.config_path().display().to_string();
    let said = format!(
        "{:#}",
        fleet.in_node(&["detach", "--config", &config]).unwrap_err()
    );
    assert!(said.contains("another daemon uses these pins"), "{said}");
    fleet.kill_daemon();
    fleet.start().unwrap();
    ask(&fleet);
}
