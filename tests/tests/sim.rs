//! Requirements in simulated time, with the daemon's own controller and the kernel's decision.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::time::Duration;

use steer_simulator::{Act, Outcome, Scenario, State, all, day, run};
use steer_tests::sim::STEER;

fn scenario(name: &str) -> Scenario {
    all().into_iter().find(|s| s.name == name).unwrap()
}

/// Runs steer in a scenario that ends early.
fn short(name: &str, seconds: u64) -> Outcome {
    let scenario = Scenario {
        length: Duration::from_secs(seconds),
        ..scenario(name)
    };
    run(&scenario, &STEER)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let [one, two] = [(); 2].map(|()| short("steady", 20));
    assert_eq!((one.requests, one.first_ms), (two.requests, two.first_ms));
    assert_eq!(one.shares, two.shares);
    assert!(one.requests > 100, "{}", one.requests);
}

#[test]
fn no_open_flow_leaves_a_living_server_whatever_happens() {
    for name in ["1.5x step", "one at 45 %", "flapping", "four nodes"] {
        let outcome = short(name, 60);
        assert_eq!(outcome.strayed, 0, "{name}");
        assert!(outcome.requests > 1000, "{name}: {}", outcome.requests);
    }
}

#[test]
fn no_request_leaves_its_regions_even_when_one_is_lost() {
    let lost = Scenario {
        allowed: vec![0, 1],
        regions: vec![4, 4, 4],
        length: Duration::from_secs(30),
        acts: vec![
            (Duration::from_secs(10), Act::Region(0, State::Gone)),
            (Duration::from_secs(20), Act::Region(1, State::Gone)),
        ],
        ..Scenario::new("regions lost")
    };
    let outcome = run(&lost, &STEER);
    assert_eq!(outcome.outside, 0);
    // With no region left, requests fail.
    assert!(outcome.failed > 0);
    let elsewhere = outcome
        .shares
        .iter()
        .map(|shares| shares[8..].iter().sum::<f64>());
    assert_eq!(elsewhere.sum::<f64>(), 0.0);
}

#[test]
fn a_lost_region_costs_what_was_under_way_there_and_little_else() {
    let outcome = short("region lost", 70);
    assert!(outcome.doomed > 0);
    // New flows wait for at most one retransmission of a SYN.
    let avoidable = outcome.failed - outcome.doomed;
    assert!(
        avoidable * 100 <= outcome.requests,
        "{avoidable} of {}",
        outcome.requests
    );
}

#[test]
fn engines_that_seem_to_be_in_trouble_and_serve_are_kept() {
    for seed in [3, 4] {
        let outcome = run(&day(Duration::from_secs(1800), seed), &STEER);
        assert_eq!(outcome.ejections, 0, "seed {seed}");
        assert!(outcome.requests > 1000, "{}", outcome.requests);
    }
}
