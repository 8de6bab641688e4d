use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::control::{BackendStatus, MemberStatus, ServiceStatus};

fn status() -> Status {
    let member = |backend: &str, state: &str, share| MemberStatus {
        backend: backend.to_owned(),
        pool: "all".to_owned(),
        state: state.to_owned(),
        share,
        flows: 7,
        packets: 70,
        bytes: 7000,
        replies: 60,
    };
    let backend = |name: &str, health: &str| BackendStatus {
        name: name.to_owned(),
        address: "10.0.0.1".to_owned(),
        mode: "nat".to_owned(),
        health: health.to_owned(),
        drained: false,
        draining: false,
        rtt_us: Some(1500),
        ring: Some(1),
        measured_ms_ago: Some(90),
        failure: None,
        resolved: true,
    };
    Status {
        attached: Vec::new(),
        node: "edge".to_owned(),
        interfaces: vec!["eth0".to_owned()],
        generation: Some(3),
        confirm_by: None,
        frozen: false,
        services: vec![ServiceStatus {
            name: "chat".to_owned(),
            address: "192.0.2.1".to_owned(),
            port: 80,
            protocol: "tcp".to_owned(),
            pools: vec!["all".to_owned()],
            slots: 211,
            unsettled: 4,
            members: vec![member("one", "up", 0.75), member("two", "down", 0.25)],
            classes: Vec::new(),
        }],
        backends: vec![backend("one", "up"), backend("two", "down")],
        drops: BTreeMap::from([("no-backend".to_owned(), 5)]),
    }
}

#[test]
fn the_page_has_what_the_status_says() {
    let page = page(&Meters::new(), status()).unwrap();
    for line in [
        "# TYPE steer_member_bytes counter",
        "# UNIT steer_member_bytes bytes",
        "steer_member_bytes_total{service=\"chat\",backend=\"one\"} 7000",
        "steer_member_packets_total{service=\"chat\",backend=\"two\"} 70",
        "steer_member_share{service=\"chat\",backend=\"one\"} 0.75",
        "steer_member_state{service=\"chat\",backend=\"two\",state=\"down\"} 1.0",
        "steer_member_state{service=\"chat\",backend=\"two\",state=\"up\"} 0.0",
        "steer_service_members_up{service=\"chat\"} 1.0",
        "steer_service_unsettled_slots{service=\"chat\"} 4.0",
        "steer_backend_health{backend=\"two\",health=\"down\"} 1.0",
        "# UNIT steer_backend_round_trip_seconds seconds",
        "steer_backend_round_trip_seconds{backend=\"one\"} 0.0015",
        "steer_dropped_packets_total{reason=\"no-backend\"} 5",
        "steer_dropped_packets_total{reason=\"reset\"} 0",
        "steer_generation 3.0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(page.ends_with("# EOF\n"), "{page}");
}

/// What the format asks for, and what people ask of it: each family once and in one piece, with a help
/// text, a counter's samples with `_total`, a unit at the end of the name.
#[test]
fn families_are_whole_and_described() {
    let page = page(&Meters::new(), status()).unwrap();
    let mut described = BTreeSet::new();
    let mut kind = BTreeMap::new();
    let mut current = String::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(help.ends_with('.') && help.len() > 10, "{line}");
                assert!(described.insert(name.to_owned()), "{name} comes twice");
                current = name.to_owned();
            }
            ["#", "TYPE", name, of] => {
                kind.insert(name.to_owned(), of.to_owned());
            }
            ["#", "UNIT", name, unit] => assert!(name.ends_with(&format!("_{unit}")), "{line}"),
            _ => {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(name.starts_with(&current), "{line} is not of {current}");
                if kind.get(&current).is_some_and(|kind| kind == "counter") {
                    assert_eq!(name, format!("{current}_total"), "{line}");
                }
            }
        }
    }
    assert!(described.len() > 20, "{described:?}");
    let helps = page
        .lines()
        .filter(|line| line.starts_with("# HELP"))
        .count();
    let types = page
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .count();
    assert_eq!(helps, types);
}

#[test]
fn labels_are_names_and_words_and_no_addresses() {
    let page = page(&Meters::new(), status()).unwrap();
    let allowed = [
        "service", "backend", "reason", "state", "health", "version", "node", "turn", "result",
        "le", "file",
    ];
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, labels)) = line.split_once('{') else {
            continue;
        };
        for label in labels.split("\",").filter_map(|l| l.split_once("=\"")) {
            assert!(allowed.contains(&label.0), "{line}");
        }
        assert!(!line.contains("10.0.0.1"), "{line}");
    }
}
