//! A program with another version of the maps takes over under load, and hands back; needs root,
//! and `cargo xtask programs`, which builds that program.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{net::SocketAddr, thread, time::Duration};

use steer_common::abi::ABI_VERSION;
use steer_tests::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::{Load, Running},
    summary::Summary,
};
use tokio::sync::watch;

/// The usual program, and one with the next version of the maps.
const PROGRAMS: [&str; 2] = ["steer", "steer-next"];

fn fleet(mode: &'static str) -> Fleet {
    let mut fleet = Fleet::new(Plan {
        // Answers of a second and more, so that connections are open across each change.
        thinking: [Duration::from_millis(50), Duration::from_millis(10)],
        tokens: 100,
        ..Plan::new(&["near", "far"], mode)
    })
    .unwrap();
    // A busy machine may answer probes late, and open connections of a backend that seems down are
    // reset.
    let patient = fleet.config().replace("[probe]\n", "[probe]\nfall = 50\n");
    std::fs::write(fleet.config_path(), patient).unwrap();
    fleet.start().unwrap();
    fleet
}

fn load(fleet: &Fleet) -> (Running, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    let load = Load {
        concurrency: 16,
        duration: Duration::from_secs(120),
        timeout: Duration::from_secs(20),
        stop: Some(stopped),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    };
    (load.start_in(&fleet.site.client).unwrap(), stop)
}

fn until_requests_flow(fleet: &Fleet) {
    wait(Duration::from_secs(10), "requests flow", || {
        Ok(fleet.status()?.to_string().contains("\"packets\""))
    })
    .unwrap();
}

/// Ends the load: no request may have failed.
fn whole(load: (Running, watch::Sender<bool>), what: &str) {
    load.1.send(true).unwrap();
    let samples = load.0.finish().unwrap();
    let errors: Vec<_> = samples.iter().filter_map(|s| s.error.clone()).collect();
    let summary = Summary::from_samples(&samples);
    println!(
        "{what}: {} requests, {} failed, longest gap {:?}",
        summary.requests, summary.failures, summary.gap
    );
    assert!(errors.is_empty(), "{what}: {errors:?}");
    assert!(samples.len() > 20, "{what}: {} requests", samples.len());
}

fn versions(fleet: &Fleet) -> Vec<String> {
    let entries = std::fs::read_dir(fleet.bpffs().join("steer")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.collect()
}

fn migrating(fleet: &Fleet) -> u64 {
    let status = fleet.status().unwrap();
    status["services"][0]["migrating"].as_u64().unwrap()
}

/// Creates slots whose open flows belong to one backend, and new ones to the other: by the first or
/// the second change, depending on the order in which backends came up.
fn unsettle(fleet: &Fleet) {
    let mut drains = ["drain", "undrain"].iter().cycle();
    wait(Duration::from_secs(10), "slots are migrating", || {
        let drain = drains.next().copied().unwrap_or_default();
        fleet.cli(&["backend", drain, "near"])?;
        Ok(migrating(fleet) > 0)
    })
    .unwrap();
}

fn restart_as(fleet: &mut Fleet, program: usize) {
    fleet.kill_daemon();
    fleet.use_program(PROGRAMS[program]).unwrap();
    fleet.start().unwrap();
    let version = ABI_VERSION + u32::from(program == 1);
    assert_eq!(versions(fleet), [format!("v{version}")]);
}

fn takes_over_and_gives_back(mode: &'static str) {
    let mut fleet = fleet(mode);
    let load = load(&fleet);
    until_requests_flow(&fleet);
    for program in [1, 0, 1, 0] {
        unsettle(&fleet);
        restart_as(&mut fleet, program);
    }
    whole(load, mode);
}

#[test]
fn another_version_takes_over_flows_of_nat_and_gives_them_back() {
    takes_over_and_gives_back("nat");
}

#[test]
fn another_version_takes_over_flows_of_ipip_and_gives_them_back() {
    takes_over_and_gives_back("ipip");
}

/// Checks that after a failed takeover the old program continues, and the previous daemon starts
/// again.
#[test]
fn an_upgrade_that_fails_leaves_the_old_one_running() {
    let mut fleet = fleet("nat");
    let load = load(&fleet);
    until_requests_flow(&fleet);
    let pins = fleet.bpffs().join(format!("steer/v{ABI_VERSION}/maps"));
    let config = fleet.config_path();
    let config = config.display().to_string();
    fleet.kill_daemon();
    // Pins that the new version cannot interpret.
    let (arrays, aside) = (pins.join("NAT_FORWARD"), pins.join("ASIDE"));
    std::fs::rename(pins.join("NAT_SOURCES"), &aside).unwrap();
    std::fs::rename(&arrays, pins.join("NAT_SOURCES")).unwrap();
    fleet.use_program(PROGRAMS[1]).unwrap();
    let error = fleet.in_node(&["run", "--config", &config]).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("NAT_"), "{error}");
    assert_eq!(versions(&fleet), [format!("v{ABI_VERSION}")]);
    std::fs::rename(pins.join("NAT_SOURCES"), &arrays).unwrap();
    std::fs::rename(&aside, pins.join("NAT_SOURCES")).unwrap();
    restart_as(&mut fleet, 0);
    whole(load, "an upgrade that fails");
}

/// Checks that whenever a daemon of another version dies, the next one of either version continues.
#[test]
fn killed_at_any_moment_of_a_takeover_nothing_is_lost() {
    let mut fleet = fleet("nat");
    let load = load(&fleet);
    let mut kills = 0;
    for round in 0..8_u64 {
        for program in [1, 0] {
            fleet.kill_daemon();
            fleet.use_program(PROGRAMS[program]).unwrap();
            fleet.start_daemon().unwrap();
            // Times spread over a start; there is no event for them.
            thread::sleep(Duration::from_millis(100 + 137 * round));
            kills += 1;
        }
    }
    for program in [1, 0] {
        restart_as(&mut fleet, program);
    }
    whole(load, &format!("{kills} kills in takeovers"));
}

/// Sets the size of the tables for the next start.
fn resize(fleet: &Fleet, flows: u32) {
    let limits = format!("[limits]\nflows = {flows}\nnat_flows = {flows}\n\n[nat]\n");
    let config = fleet.config().replace("[nat]\n", &limits);
    let patient = config.replace("[probe]\n", "[probe]\nfall = 50\n");
    std::fs::write(fleet.config_path(), patient).unwrap();
}

/// Checks that tables grow and shrink over restarts, whenever a daemon dies.
#[test]
fn tables_of_another_size_take_over_under_load() {
    let mut fleet = fleet("nat");
    let load = load(&fleet);
    until_requests_flow(&fleet);
    for (round, flows) in [(0, 40_000), (1, 20_000), (2, 80_000), (3, 10_000)] {
        unsettle(&fleet);
        resize(&fleet, flows);
        for moment in 0..3_u64 {
            fleet.kill_daemon();
            fleet.start_daemon().unwrap();
            // Times spread over a start; there is no event for them.
            thread::sleep(Duration::from_millis(60 + 90 * round + 330 * moment));
        }
        fleet.kill_daemon();
        fleet.start().unwrap();
        assert_eq!(versions(&fleet).len(), 1);
        let memory = fleet.cli(&["status", "--memory", "--json"]).unwrap();
        let memory: serde_json::Value = serde_json::from_str(&memory).unwrap();
        let maps = memory.as_array().or(memory["maps"].as_array()).unwrap();
        for name in ["FLOWS", "NAT_FORWARD", "NAT_REVERSE"] {
            let map = maps.iter().find(|map| map["name"] == name).unwrap();
            assert_eq!(map["entries"], flows, "{name}");
        }
    }
    whole(load, "tables of another size");
}
