//! QUIC connections whose clients change their port, under a daemon that changes weights; needs
//! root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{fs, net::SocketAddr, time::Duration};

use serde_json::Value;
use steer_tests::{
    fleet::{Fleet, Plan, wait},
    process::Process,
    quic::{Client, Server, start_aioquic},
};

const PORT: u16 = 4433;
const NAMES: [&str; 2] = ["one", "two"];
/// Timeout of a handshake on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pieces in flight while a client moves.
const PIECES: usize = 16;

/// Creates a site with two backends whose members are up for a QUIC service; no server runs yet.
fn fleet(mode: &'static str, v6: bool) -> Fleet {
    let mut plan = Plan {
        v6,
        ..Plan::new(&NAMES, mode)
    };
    // In the middle of a ring, so that a busy machine does not move them apart.
    for (_, delay) in &mut plan.backends {
        *delay = Some(Duration::from_millis(8));
    }
    let mut fleet = Fleet::new(plan).unwrap();
    let text = format!(
        "{}\n[[service]]\nname = \"quic\"\naddress = \"{}\"\nport = {PORT}\nprotocol = \"udp\"\n\
         quic = true\npools = [\"all\"]\n",
        fleet.config(),
        fleet.vip()
    );
    fs::write(fleet.config_path(), text).unwrap();
    fleet.start().unwrap();
    fleet
}

/// Returns the output of `steer cid config` for a backend.
fn ids(fleet: &Fleet, name: &str) -> String {
    let file = fleet.config_path().display().to_string();
    fleet
        .in_node(&["cid", "config", name, "--config", &file])
        .unwrap()
}

fn by_quinn(fleet: &Fleet, with_ids: bool) -> Vec<Server> {
    let backends = fleet.site.backends.iter().zip(NAMES);
    let server = backends.map(|(backend, name)| {
        let ids = with_ids.then(|| serde_json::from_str(&ids(fleet, name)).unwrap());
        Server::start_in(&backend.namespace, PORT, name, ids).unwrap()
    });
    server.collect()
}

fn by_aioquic(fleet: &Fleet) -> Vec<Process> {
    let backends = fleet.site.backends.iter().zip(NAMES);
    let server = backends.map(|(backend, name)| {
        let listen = SocketAddr::new(backend.v4.into(), PORT);
        let folder = fleet.path("");
        start_aioquic(&backend.namespace, listen, name, &ids(fleet, name), &folder).unwrap()
    });
    server.collect()
}

fn connect(fleet: &Fleet, patience: Duration) -> Client {
    let vip = SocketAddr::new(fleet.vip(), PORT);
    let connected = fleet.site.client.enter(|| Client::connect(vip, patience));
    connected.unwrap().unwrap()
}

/// Opens connections until both backends have at least two of them.
fn clients(fleet: &Fleet, patience: Duration) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    let few = |clients: &[Client]| {
        NAMES
            .iter()
            .any(|name| clients.iter().filter(|c| c.server() == *name).count() < 2)
    };
    while few(&clients) {
        assert!(
            clients.len() < 30,
            "all of them go to {}",
            clients[0].server()
        );
        clients.push(connect(fleet, patience));
    }
    clients
}

/// Moves all clients. A client sent to another backend would not get its bytes back, because that
/// one has no such connection.
fn all_move(fleet: &Fleet, clients: &mut [Client], when: &str) {
    for client in clients {
        let moved = fleet
            .site
            .client
            .enter(|| client.move_amid(PIECES))
            .unwrap();
        if let Err(error) = moved {
            panic!(
                "{when}, a connection to {} was lost: {error:#}",
                client.server()
            );
        }
    }
}

fn share(fleet: &Fleet, name: &str) -> f64 {
    let text = fleet.cli(&["service", "show", "quic", "--json"]).unwrap();
    let service: Value = serde_json::from_str(&text).unwrap();
    let members = service["members"].as_array().unwrap();
    let member = members.iter().find(|m| m["backend"] == name).unwrap();
    member["share"].as_f64().unwrap()
}

/// Moves clients while weights change back and forth, and while one backend drains.
fn keeps_its_connections(fleet: &Fleet) {
    let mut clients = clients(fleet, PATIENCE);
    all_move(fleet, &mut clients, "in a settled table");
    for [more, less] in [["two", "one"], ["one", "two"]] {
        fleet.cli(&["weight", more, "19"]).unwrap();
        fleet.cli(&["weight", less, "1"]).unwrap();
        all_move(fleet, &mut clients, "while weights change");
        wait(Duration::from_secs(30), "the table has changed", || {
            Ok(share(fleet, more) > 0.9)
        })
        .unwrap();
        all_move(fleet, &mut clients, "after weights have changed");
    }
    fleet.cli(&["backend", "drain", "one"]).unwrap();
    wait(Duration::from_secs(30), "one has no new flows", || {
        Ok(share(fleet, "one") == 0.0)
    })
    .unwrap();
    all_move(fleet, &mut clients, "while its backend drains");
    for _ in 0..5 {
        assert_eq!(connect(fleet, PATIENCE).server(), "two");
    }
}

#[test]
fn nat_keeps_connections_of_clients_that_move() {
    let fleet = fleet("nat", false);
    let _servers = by_quinn(&fleet, true);
    keeps_its_connections(&fleet);
}

#[test]
fn ipip_over_ipv6_keeps_connections_of_clients_that_move() {
    let fleet = fleet("ipip", true);
    let _servers = by_quinn(&fleet, true);
    keeps_its_connections(&fleet);
}

#[test]
fn another_implementation_keeps_its_connections_as_well() {
    let fleet = fleet("nat", false);
    let _servers = by_aioquic(&fleet);
    keeps_its_connections(&fleet);
}

#[test]
fn without_ids_a_client_that_moves_may_lose_its_connection() {
    let fleet = fleet("nat", false);
    let _servers = by_quinn(&fleet, false);
    // Every other new port leads to the other backend.
    let mut clients = clients(&fleet, Duration::from_secs(4));
    let lost = clients.iter_mut().any(|client| {
        let moved = fleet.site.client.enter(|| client.move_amid(2));
        moved.unwrap().is_err()
    });
    assert!(lost, "the tests of the others could not fail");
}
