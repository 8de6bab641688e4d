use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;

fn status() -> Status {
    let member = |backend: &str, state: &str, share: f64| {
        json!({
            "backend": backend, "pool": "all", "state": state, "share": share,
            "flows": 7, "packets": 70, "bytes": 7000, "replies": 60
        })
    };
    let backend = |name: &str, health: &str| {
        json!({
            "name": name, "address": "10.0.0.1", "mode": "nat", "health": health,
            "drained": false, "draining": false, "rtt_us": 1500, "ring": 1,
            "measured_ms_ago": 90, "failure": null, "resolved": true, "weight": 5
        })
    };
    let status = json!({
        "node": "edge", "interfaces": ["eth0"], "generation": 3,
        "services": [{
            "name": "chat", "address": "192.0.2.1", "port": 80, "protocol": "tcp",
            "pools": ["all"], "slots": 211, "migrating": 4,
            "members": [member("one", "up", 0.75), member("two", "down", 0.25)],
            "priority": 100, "refused": { "denied": 2 },
            "classes": [{
                "name": "premium", "sources": ["10.0.0.0/8"], "dscp": [46], "pools": ["all"],
                "regions": null, "slots": 211, "migrating": 0, "priority": 200,
                "refused": { "source-limited": 3 }, "shares": { "one": 1.0 }
            }]
        }],
        "backends": [backend("one", "up"), backend("two", "down")],
        "drops": { "no-backend": 5 }
    });
    let mut status: Status = serde_json::from_value(status).unwrap();
    status.backends[0].used = Some(0.75);
    status
}

#[test]
fn the_page_has_what_the_status_says() {
    let page = page(&DaemonMetrics::new(), status(), Vec::new()).unwrap();
    for line in [
        "# TYPE steer_member_bytes counter",
        "# UNIT steer_member_bytes bytes",
        "steer_member_bytes_total{service=\"chat\",backend=\"one\"} 7000",
        "steer_member_packets_total{service=\"chat\",backend=\"two\"} 70",
        "steer_member_share_ratio{service=\"chat\",backend=\"one\"} 0.75",
        "steer_member_state{service=\"chat\",backend=\"two\",state=\"down\"} 1.0",
        "steer_member_state{service=\"chat\",backend=\"two\",state=\"up\"} 0.0",
        "steer_service_members_up{service=\"chat\"} 1.0",
        "steer_service_migrating_slots{service=\"chat\"} 4.0",
        "steer_backend_health{backend=\"two\",health=\"down\"} 1.0",
        "# UNIT steer_backend_round_trip_seconds seconds",
        "steer_backend_round_trip_seconds{backend=\"one\"} 0.0015",
        "steer_dropped_packets_total{reason=\"no-backend\"} 5",
        "steer_dropped_packets_total{reason=\"reset\"} 0",
        "steer_backend_weight{backend=\"two\"} 5.0",
        "steer_backend_utilization_ratio{backend=\"one\"} 0.75",
        "steer_refused_packets_total{service=\"chat\",class=\"\",reason=\"denied\"} 2",
        "steer_refused_packets_total{service=\"chat\",class=\"premium\",reason=\"source-limited\"} 3",
        "steer_refused_packets_total{service=\"chat\",class=\"premium\",reason=\"shed\"} 0",
        "steer_class_share_ratio{service=\"chat\",class=\"premium\",backend=\"one\"} 1.0",
        "steer_class_slots{service=\"chat\",class=\"premium\"} 211.0",
        "steer_shedding{service=\"chat\",class=\"premium\"} 0.0",
        "steer_generation 3.0",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    // The utilization of the other one is unknown.
    assert!(
        !page.contains("steer_backend_utilization_ratio{backend=\"two\"}"),
        "{page}"
    );
    assert!(page.ends_with("# EOF\n"), "{page}");
}

/// Checks requirements of the format and of users: each family once and in one piece, with a help
/// text, `_total` on samples of counters, and the unit at the end of the name.
#[test]
fn families_are_whole_and_described() {
    let page = page(&DaemonMetrics::new(), status(), Vec::new()).unwrap();
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
fn the_reference_lists_the_families_of_our_own_alerts() {
    let families = families().unwrap();
    let names: BTreeSet<&str> = families.iter().map(|family| family.name.as_str()).collect();
    for name in [
        "steer_probes",
        "steer_probe_round_trip_seconds",
        "steer_certificate_end_timestamp_seconds",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
}

#[test]
fn labels_are_names_and_words_and_no_addresses() {
    let page = page(&DaemonMetrics::new(), status(), Vec::new()).unwrap();
    let allowed = [
        "service", "class", "backend", "reason", "state", "health", "version", "node", "turn",
        "result", "le", "file",
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
