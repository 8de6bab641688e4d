//! Properties of the rivals: a rival that is weak by mistake would prove nothing.

use std::time::Duration;

use super::{Maker, ORACLES, RIVALS};
use crate::{Act, Outcome, Scenario, State, engine::Profile, run};

const SEEDS: [u64; 3] = [1, 2, 3];

fn maker(name: &str) -> &'static Maker {
    let mut all = RIVALS.iter().chain(&ORACLES);
    all.find(|maker| maker.name == name).unwrap()
}

fn outcomes(name: &str, scenario: &Scenario) -> Vec<Outcome> {
    let seeds = SEEDS.iter().map(|seed| Scenario {
        seed: *seed,
        ..scenario.clone()
    });
    seeds.map(|scenario| run(&scenario, maker(name))).collect()
}

fn p99(name: &str, scenario: &Scenario) -> f64 {
    let all = outcomes(name, scenario);
    all.iter().map(|o| o.first_ms[2]).sum::<f64>() / all.len() as f64
}

fn short(load: f64) -> Scenario {
    Scenario {
        load,
        length: Duration::from_secs(40),
        ..Scenario::new("short")
    }
}

#[test]
fn all_policies_serve_everybody_while_nothing_breaks() {
    for maker in RIVALS.iter().chain(&ORACLES) {
        let outcome = run(&short(0.5), maker);
        assert_eq!(outcome.failed, 0, "{}", maker.name);
        assert!(outcome.requests > 500, "{}", maker.name);
        assert!(outcome.first_ms[0] < 500.0, "{}", maker.name);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for maker in &RIVALS {
        let [one, two] = [(); 2].map(|()| run(&short(0.5), maker));
        assert_eq!((one.requests, one.first_ms), (two.requests, two.first_ms));
    }
}

#[test]
fn nobody_beats_the_oracle() {
    let scenario = short(0.75);
    let bound = p99("oracle (request)", &scenario);
    for rival in &RIVALS {
        assert!(p99(rival.name, &scenario) > bound, "{}", rival.name);
    }
}

#[test]
fn choices_by_load_beat_a_hash_where_slots_are_few() {
    let scenario = Scenario {
        engines: vec![Profile::FEW_SLOTS],
        ..short(0.75)
    };
    let hash = p99("static hash", &scenario);
    for name in [
        "envoy locality + least request",
        "nearest ring + two choices",
        "prequal, in flight only",
        "least in flight",
    ] {
        assert!(p99(name, &scenario) * 1.5 < hash, "{name}");
    }
}

#[test]
fn a_prefix_scorer_finds_the_cache() {
    let scenarios = crate::all();
    let chat = scenarios.iter().find(|s| s.name == "multi-turn").unwrap();
    let chat = Scenario {
        length: Duration::from_secs(40),
        ..chat.clone()
    };
    let [with, without] =
        ["inference scorer (GAIE)", "least in flight"].map(|name| p99(name, &chat));
    assert!(with * 1.5 < without, "{with} {without}");
}

#[test]
fn a_region_that_is_lost_fails_only_what_is_there() {
    let lost = Scenario {
        acts: vec![(Duration::from_secs(20), Act::Region(0, State::Gone))],
        ..short(0.4)
    };
    for maker in &RIVALS {
        let outcome = run(&lost, maker);
        let avoidable = outcome.failed - outcome.doomed;
        assert!(avoidable * 100 <= outcome.requests, "{}", maker.name);
        let near: f64 = outcome.shares[25][..8].iter().sum();
        assert_eq!(near, 0.0, "{}", maker.name);
    }
}
