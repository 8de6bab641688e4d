//! Failures under load with default settings; needs root. `cargo xtask chaos` measures more of
//! them, and `cargo xtask soak` runs for an hour. These tests check the order of events, not their
//! duration on a busy machine.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::time::Duration;

use steer_tests::chaos::{Death, Site, Soak, Trial, soak};

const EVERY: Duration = Duration::from_millis(10);
/// Default interval between probes in milliseconds.
const PERIOD_MS: f64 = 100.0;

fn trial(mode: &'static str, death: Death) -> Trial {
    Site::start(mode, EVERY).unwrap().run(death, 0).unwrap()
}

/// Checks that a death is detected, then tables change, and soon no new flow is affected.
fn ends_new_flows(mode: &'static str, death: Death) -> Trial {
    let trial = trial(mode, death);
    let noticed = trial.detected_ms.unwrap();
    assert!(trial.table_ms.is_none_or(|at| at >= noticed), "{trial:?}");
    let last = trial.last_new_ms.unwrap_or(0.0);
    assert!(last <= noticed + 3.0 * PERIOD_MS, "{trial:?}");
    assert_eq!(trial.failed_elsewhere, 0, "{trial:?}");
    // A single death: connections and probes report it, and two services have tables.
    assert!(trial.tables <= 12, "{trial:?}");
    trial
}

#[test]
fn a_killed_backend_gets_no_new_flow_once_it_is_noticed() {
    let trial = ends_new_flows("nat", Death::Killed);
    assert!(trial.failed_after < trial.requests / 4, "{trial:?}");
}

#[test]
fn connections_that_are_refused_are_noticed_as_such() {
    let trial = ends_new_flows("nat", Death::EngineKilled);
    assert!(trial.failed_after < trial.requests / 4, "{trial:?}");
}

#[test]
fn new_flows_into_a_black_hole_try_again_elsewhere() {
    let trial = ends_new_flows("nat", Death::BlackHole);
    // Their SYN is repeated to the other choice.
    assert_eq!(trial.failed_after, 0, "{trial:?}");
}

#[test]
fn a_machine_that_stands_still_gets_no_new_flow_over_ipip() {
    ends_new_flows("ipip", Death::Stopped);
}

#[test]
fn what_is_announced_fails_nothing() {
    for death in [Death::Drained, Death::BeaconDrains] {
        let trial = ends_new_flows("nat", death);
        assert_eq!(
            (trial.failed_under_way, trial.failed_after),
            (0, 0),
            "{trial:?}"
        );
    }
}

#[test]
fn a_backend_whose_beacon_dies_goes_on_behind_nat() {
    let trial = trial("nat", Death::BeaconKilled);
    assert!(trial.has_no_failure(), "{trial:?}");
}

#[test]
fn a_daemon_that_dies_fails_nothing() {
    let trial = trial("nat", Death::DaemonKilled);
    assert_eq!(
        (trial.failed_under_way, trial.failed_after),
        (0, 0),
        "{trial:?}"
    );
}

#[test]
fn nothing_is_lost_without_a_reason_and_nothing_grows() {
    let plan = Soak {
        length: Duration::from_secs(25),
        seed: 11,
        mode: "nat",
        every: EVERY,
    };
    let soaked = soak(&plan, |_| ()).unwrap();
    assert!(soaked.unexplained.is_empty(), "{soaked:?}");
    // Tables fill up for longer than that.
    let mut grown = soaked.growth.too_much();
    grown.retain(|what| !what.starts_with("flows"));
    assert!(grown.is_empty(), "{soaked:?}");
    assert!(soaked.requests > 1000, "{soaked:?}");
}
