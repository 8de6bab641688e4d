//! Backends that serve badly, and engines and beacons that report wrong values, with default
//! settings; needs root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use steer_tests::{
    attack::{Connections, Streams, out_by_journal},
    fleet::{Fleet, HTTP, Plan},
    load::{Load, Running, Sample},
};
use tokio::sync::watch;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Maximum number of requests lost to a failing backend.
const LOST: usize = 15;
/// Time by which it must be almost without traffic, and length of that check.
const BY: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(5);

fn plan(fault: &'static str) -> Plan {
    Plan {
        defaults: true,
        watched: true,
        thinking: [Duration::from_millis(20), Duration::from_millis(10)],
        tokens: 8,
        fault: Some(fault),
        // In the middle of a ring, so that a busy machine does not move them apart.
        backends: NAMES
            .map(|name| (name, Some(Duration::from_millis(8))))
            .to_vec(),
        ..Plan::new(&NAMES, "nat")
    }
}

fn fleet(plan: Plan) -> Fleet {
    let mut fleet = Fleet::new(plan).unwrap();
    fleet.start().unwrap();
    fleet
}

/// A load that runs until stopped, with its first requests answered.
struct RunningLoad {
    running: Running,
    stop: watch::Sender<bool>,
}

impl RunningLoad {
    fn start(fleet: &Fleet, every: Duration) -> Self {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = watch::channel(false);
        let load = Load {
            every: Some(every),
            duration: Duration::from_secs(3600),
            timeout: Duration::from_secs(5),
            live: Some(tell),
            stop: Some(stopped),
            ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
        };
        let running = load.start_in(&fleet.site.client).unwrap();
        for _ in 0..20 {
            let sample = told.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(sample.error, None);
        }
        Self { running, stop }
    }

    fn finish(self) -> Vec<Sample> {
        self.stop.send_replace(true);
        self.running.finish().unwrap()
    }
}

/// Checks that one of three backends that starts to fail fast loses few requests, and soon gets
/// almost no traffic.
fn fast_failure_does_not_attract(fault: &'static str) {
    let fleet = fleet(plan(fault));
    let load = RunningLoad::start(&fleet, Duration::from_millis(50));
    let begin = Instant::now();
    fleet.signal_server(0, libc::SIGHUP);
    thread::sleep(BY + LOOK);
    let samples = load.finish();
    // A connection closed at once names no backend, and no other backend fails any.
    let fails = |s: &&Sample| s.error.is_some();
    let its = |s: &&Sample| fails(s) || s.backend.as_deref() == Some(NAMES[0]);
    let lost: Vec<_> = samples.iter().filter(fails).collect();
    let late: Vec<_> = samples.iter().filter(|s| s.start >= begin + BY).collect();
    let share = late.iter().copied().filter(its).count() as f64 / late.len() as f64;
    assert!(!lost.is_empty(), "nothing failed");
    assert!(late.len() > 30, "{}", late.len());
    let elsewhere = |s: &&&Sample| s.backend.as_deref().is_some_and(|b| b != NAMES[0]);
    assert_eq!(lost.iter().filter(elsewhere).count(), 0, "{lost:?}");
    assert!(
        share < 0.05 && lost.len() <= LOST,
        "{fault}: {} of {} lost, and a share of {share:.2} at last",
        lost.len(),
        samples.len()
    );
}

#[test]
fn a_backend_that_answers_429_at_once_loses_its_traffic() {
    fast_failure_does_not_attract("too-many");
}

#[test]
fn a_backend_that_resets_its_answers_halfway_loses_its_traffic() {
    fast_failure_does_not_attract("reset-midway");
}

#[test]
fn a_backend_that_accepts_and_closes_loses_its_traffic() {
    fast_failure_does_not_attract("close-at-once");
}

/// Checks that no backend is ejected for a fault that all have and no client notices.
fn nobody_is_out(fleet: &Fleet, since: SystemTime) {
    let out = out_by_journal(&fleet.state(), since).unwrap();
    assert!(out.is_empty(), "{out:?}");
}

#[test]
fn a_slow_page_of_metrics_refuses_nobody_and_resets_nothing() {
    let fleet = fleet(Plan {
        beacon: vec!["--look-every", "500ms", "--silence", "2s", "--stall", "3s"],
        ..plan("slow-page")
    });
    let target = SocketAddr::new(fleet.vip(), HTTP);
    let connections = Connections {
        target,
        streams: 6,
        waiting: 3,
    };
    let streams = Streams::open(&fleet.site.client, &[connections]).unwrap();
    let load = RunningLoad::start(&fleet, Duration::from_millis(50));
    let since = SystemTime::now();
    for backend in 0..NAMES.len() {
        fleet.signal_server(backend, libc::SIGHUP);
    }
    // Longer than a page takes, and than a beacon waits for it.
    thread::sleep(Duration::from_secs(12));
    let samples = load.finish();
    let failed: Vec<_> = samples.iter().filter_map(|s| s.error.clone()).collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:?}",
        failed.len(),
        samples.len()
    );
    assert_eq!(streams.finish().unwrap(), Vec::<String>::new());
    nobody_is_out(&fleet, since);
}

/// Checks that idle engines whose gauges stay at three, but that answer completions, are not
/// refused.
fn gauges_that_stay_refuse_nobody(engine: &'static str) {
    let fleet = fleet(Plan {
        engine,
        beacon: vec![
            "--look-every",
            "500ms",
            "--stall",
            "2s",
            "--completion-every",
            "1s",
        ],
        ..plan("stuck-gauge")
    });
    let since = SystemTime::now();
    for backend in 0..NAMES.len() {
        fleet.signal_server(backend, libc::SIGHUP);
    }
    let mut samples = Vec::new();
    for _ in 0..3 {
        // Twice as long as a stall.
        thread::sleep(Duration::from_secs(4));
        let load = Load {
            duration: Duration::from_millis(500),
            timeout: Duration::from_secs(5),
            ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
        };
        samples.extend(load.run_in(&fleet.site.client).unwrap());
    }
    let failed: Vec<_> = samples.iter().filter_map(|s| s.error.clone()).collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:?}",
        failed.len(),
        samples.len()
    );
    nobody_is_out(&fleet, since);
}

#[test]
fn gauges_of_vllm_that_stay_refuse_nobody() {
    gauges_that_stay_refuse_nobody("vllm");
}

#[test]
fn gauges_of_sglang_that_stay_refuse_nobody() {
    gauges_that_stay_refuse_nobody("sglang");
}

/// Returns a backend's share of the answers to a load that keeps all of them busy.
fn share(fleet: &Fleet, seconds: u64) -> f64 {
    let load = Load {
        concurrency: 36,
        duration: Duration::from_secs(seconds),
        timeout: Duration::from_secs(10),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    };
    let samples = load.run_in(&fleet.site.client).unwrap();
    assert!(
        samples.iter().all(|s| s.error.is_none()),
        "a request failed"
    );
    let its = samples
        .iter()
        .filter(|s| s.backend.as_deref() == Some(NAMES[0]));
    its.count() as f64 / samples.len() as f64
}

/// Checks that a beacon that reports an idle engine with first tokens within a microsecond gains
/// little, and that no honest peer counts as slow.
fn a_beacon_that_lies_gains_little(mode: &'static str) {
    let fleet = fleet(Plan {
        // Weights follow at once.
        defaults: false,
        mode,
        thinking: [Duration::from_millis(30), Duration::from_millis(40)],
        beacon: vec!["--look-every", "250ms"],
        ..plan("lie")
    });
    let before = share(&fleet, 3);
    fleet.signal_server(0, libc::SIGHUP);
    // The daemon learns of it, and acts on it.
    share(&fleet, 4);
    let after = share(&fleet, 4);
    // A few more requests are chance and no gain.
    let fair = before.max(1.0 / NAMES.len() as f64);
    let limit = 1.25 * fair + 0.03;
    assert!(
        after <= limit,
        "{mode}: {before:.3} before, {after:.3} after"
    );
    let status = fleet.status().unwrap();
    for backend in status["backends"].as_array().unwrap() {
        let honest = backend["name"] != NAMES[0];
        let degraded = backend["degraded"]
            .as_array()
            .is_some_and(|d| !d.is_empty());
        assert!(!(honest && degraded), "{backend}");
    }
}

#[test]
fn a_beacon_that_lies_gains_little_behind_nat() {
    a_beacon_that_lies_gains_little("nat");
}

#[test]
fn a_beacon_that_lies_gains_little_over_ipip() {
    a_beacon_that_lies_gains_little("ipip");
}
