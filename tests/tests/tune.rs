//! Settings of a running daemon, and events for watchers; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use serde_json::Value;
use steer_common::abi::{self, maps};
use steer_tests::{
    fleet::{Fleet, HTTP, Plan, binary, wait},
    load::Load,
    process::Process,
};

/// Returns the kernel's settings.
fn kernel(fleet: &Fleet) -> abi::Config {
    let pin = fleet
        .bpffs()
        .join(format!("steer/v{}/maps/{}", abi::ABI_VERSION, maps::CONFIG));
    let map = Map::Array(MapData::from_pin(&pin).unwrap());
    let array: Array<MapData, abi::Config> = map.try_into().unwrap();
    array.get(&0, 0).unwrap()
}

fn value(fleet: &Fleet, name: &str) -> String {
    let text = fleet.cli(&["tune", "get", name, "--json"]).unwrap();
    let setting: Value = serde_json::from_str(&text).unwrap();
    setting["value"].as_str().unwrap().to_owned()
}

/// Returns the probe rate of a backend per second, from the counter of answers.
fn pace(fleet: &Fleet) -> f64 {
    let socket = fleet.path("steer.sock").display().to_string();
    let count = || {
        let curl = ["curl", "-s", "--unix-socket", &socket, "http://x/metrics"];
        let page = fleet.site.node.run(&curl).unwrap();
        let name = "steer_probes_total{backend=\"one\",result=\"answered\"} ";
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse::<f64>().unwrap()
    };
    let (begun, before) = (Instant::now(), count());
    // Time in which probes are counted.
    std::thread::sleep(Duration::from_secs(2));
    (count() - before) / begun.elapsed().as_secs_f64()
}

#[test]
fn settings_are_set_in_daemon_and_kernel_and_wrong_ones_are_refused_whole() {
    let mut fleet = Fleet::new(Plan::new(&["one"], "nat")).unwrap();
    fleet.start().unwrap();
    let listed = fleet.cli(&["tune", "list"]).unwrap();
    for name in [
        "probe.interval",
        "nat.retry",
        "gc.interval",
        "balance.hot_above",
        "log",
    ] {
        assert!(listed.contains(name), "{listed}");
    }

    assert_eq!(kernel(&fleet).nat_retry_ticks, 500);
    let said = fleet.cli(&["tune", "set", "nat.retry", "2s"]).unwrap();
    assert_eq!(said, "nat.retry = 2s\n");
    assert_eq!(kernel(&fleet).nat_retry_ticks, 2000);
    let before = kernel(&fleet).nat_timeouts.closed_ticks;
    fleet
        .cli(&["tune", "set", "nat.closed_timeout", "30s"])
        .unwrap();
    assert_eq!(kernel(&fleet).nat_timeouts.closed_ticks * 2, before);

    assert!(pace(&fleet) > 4.0);
    fleet.cli(&["tune", "set", "probe.interval", "1s"]).unwrap();
    assert!(pace(&fleet) < 3.0);

    for (wrong, says) in [
        (["nat.retry", "1ms"], "write 50ms to 1m"),
        (["nat.retry", "soon"], "\"soon\" is not a value"),
        (["probe.fall", "0"], "write 1 to 100"),
        (["probe.retry", "1s"], "`steer tune list` names them"),
        (["log", "steer=loud"], "log: \"steer=loud\" is not a value"),
        (["probe.handshake_every", "10ms"], "write 1s to 1day"),
        (["balance.hot_above", "120"], "write 1 to 100"),
        (["balance.hot_above", "75"], "balance.hot_below has to be"),
        (["balance.spill_below", "80"], "set the other one first"),
    ] {
        let said = fleet.cli(&["tune", "set", wrong[0], wrong[1]]).unwrap_err();
        let said = format!("{said:#}");
        assert!(said.contains(says), "{wrong:?}: {said}");
    }
    assert_eq!(kernel(&fleet).nat_retry_ticks, 2000);

    assert_eq!(value(&fleet, "log"), "info");
    fleet
        .cli(&["tune", "set", "log", "warn,steer=debug"])
        .unwrap();
    assert_eq!(value(&fleet, "log"), "warn,steer=debug");

    // An applied configuration resets its own settings; the others stay.
    let path = fleet.config_path().display().to_string();
    fleet.cli(&["config", "apply", &path]).unwrap();
    assert_eq!(value(&fleet, "probe.interval"), "100ms");
    assert_eq!(value(&fleet, "nat.retry"), "2s");
    assert_eq!(kernel(&fleet).nat_retry_ticks, 2000);
    fleet.cli(&["tune", "reset", "nat.retry"]).unwrap();
    assert_eq!(kernel(&fleet).nat_retry_ticks, 500);

    let state = fleet.state().display().to_string();
    let journal = fleet
        .in_node(&["journal", "show", "--state", &state])
        .unwrap();
    assert!(
        journal.contains("nat.retry set from 500ms to 2s (uid 0"),
        "{journal}"
    );
    assert!(
        journal.contains("probe.interval set from 100ms to 1s"),
        "{journal}"
    );
    let replayed = fleet.in_node(&["journal", "replay", "--state", &state]);
    replayed.unwrap();

    // No override persists over a restart of the daemon.
    fleet.cli(&["tune", "set", "nat.retry", "3s"]).unwrap();
    fleet.kill_daemon();
    fleet.start().unwrap();
    assert_eq!(kernel(&fleet).nat_retry_ticks, 500);
}

/// Returns whether the daemon reports a backend as hot.
fn is_hot(fleet: &Fleet) -> bool {
    let status = fleet.status().unwrap();
    status["backends"][0]["hot"].as_bool().unwrap()
}

#[test]
fn thresholds_of_heat_are_set_and_do_what_they_say() {
    let mut plan = Plan::new(&["one"], "nat");
    plan.watched = true;
    let mut fleet = Fleet::new(plan).unwrap();
    fleet.start().unwrap();
    let soon = Duration::from_secs(20);
    wait(soon, "its use is known", || {
        Ok(fleet.status()?["backends"][0]["used"].is_f64())
    })
    .unwrap();
    assert!(!is_hot(&fleet));
    for (name, to) in [("balance.hot_below", "0"), ("balance.hot_above", "1")] {
        let said = fleet.cli(&["tune", "set", name, to]).unwrap();
        assert_eq!(said, format!("{name} = {to}\n"));
    }
    // A hundredth of its slots: one request.
    let load = Load {
        duration: Duration::from_secs(3),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    };
    let running = load.start_in(&fleet.site.client).unwrap();
    wait(soon, "it is hot", || Ok(is_hot(&fleet))).unwrap();
    drop(running.finish());
    assert_eq!(value(&fleet, "balance.hot_above"), "1");

    // An applied configuration resets both.
    let path = fleet.config_path().display().to_string();
    fleet.cli(&["config", "apply", &path]).unwrap();
    assert_eq!(value(&fleet, "balance.hot_above"), "90");
    assert_eq!(value(&fleet, "balance.hot_below"), "75");
    wait(soon, "it is not hot", || Ok(!is_hot(&fleet))).unwrap();
    fleet
        .cli(&["tune", "set", "balance.spill_above", "70"])
        .unwrap();
    fleet
        .cli(&["tune", "set", "balance.spill_below", "60"])
        .unwrap();
    let state = fleet.state().display().to_string();
    let journal = fleet
        .in_node(&["journal", "show", "--state", &state])
        .unwrap();
    assert!(
        journal.contains("balance.spill_above set from 80 to 70"),
        "{journal}"
    );
    fleet
        .in_node(&["journal", "replay", "--state", &state])
        .unwrap();
}

#[test]
fn who_watches_is_told_of_changes_as_they_happen() {
    let mut fleet = Fleet::new(Plan::new(&["one", "two"], "nat")).unwrap();
    fleet.start().unwrap();
    let mut watch = Command::new(binary("steer").unwrap());
    let socket = fleet.path("steer.sock");
    watch.args(["watch", "--json", "--socket"]).arg(&socket);
    let mut watch: Process = fleet.site.node.spawn(watch).unwrap();
    let mut until = |event: &str, text: &str| loop {
        let line = watch.read_line().unwrap().expect("the end");
        let change: Value = serde_json::from_str(&line).unwrap();
        // On a busy machine, rings and tables may change as well.
        if change["event"] == event && line.contains(text) {
            break;
        }
    };
    until("watching", "");
    fleet.cli(&["backend", "drain", "one"]).unwrap();
    until("drained", "\"backend\":\"one\"");
    until("table", "\"why\":\"one\"");
    fleet.cli(&["tune", "set", "probe.fall", "3"]).unwrap();
    until("tuned", "\"to\":\"3\"");
    fleet.kill_backend(1);
    until("backend", "\"backend\":\"two\"");
    // The end of the daemon ends the stream, with a reason.
    fleet.daemon().unwrap().signal(libc::SIGTERM);
    wait(Duration::from_secs(10), "it has ended", || {
        Ok(!watch.is_running())
    })
    .unwrap();
}
