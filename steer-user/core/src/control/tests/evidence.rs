//! Weak, single or forged signals against backends that serve.

mod beacons;
mod false_alarms;
mod fast_failures;
mod refusals;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use steer_common::abi::{Measure, Signals, bucket};
use steer_probe::probe::{Trouble, confirmation::Outcome};

use super::{
    silence::{start, traffic},
    *,
};
use crate::control::ConnectionRequest;

const ALL: [(u16, MemberState); 4] = [(1, Up), (2, Up), (3, Up), (4, Up)];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn hung(trouble: Trouble) -> ProbeFailure {
    ProbeFailure::Hung {
        trouble,
        seconds: 25,
    }
}

fn fail(bench: &Bench, controller: &mut Controller<Fake>, backend: &str, failure: &ProbeFailure) {
    let measurement = Measurement {
        backend: backend.to_owned(),
        at: bench.now,
        outcome: Err(failure.clone()),
    };
    controller.measure(measurement).unwrap();
}

/// Has all backends' probes fail a few times while time passes and some answer their clients. Returns the states that
/// there were.
fn fail_all(
    bench: &mut Bench,
    controller: &mut Controller<Fake>,
    failure: &ProbeFailure,
    answering: &[u16],
) -> Vec<Vec<MemberState>> {
    let mut seen = Vec::new();
    for _ in 0..80 {
        for name in NAMES {
            fail(bench, controller, name, failure);
        }
        traffic(bench, controller, answering, 4);
        let states = controller.dataplane.states();
        seen.push(states.into_iter().map(|(_, state)| state).collect());
    }
    seen.dedup();
    seen
}

fn signals(controller: &mut Controller<Fake>, id: u16, change: impl Fn(&mut Signals)) {
    change(controller.dataplane.signals.entry(id).or_default());
}

fn why(controller: &Controller<Fake>, backend: &str) -> String {
    let all = controller.view().decisions(backend).unwrap();
    let effects = all.into_iter().map(|decision| decision.effect);
    effects.collect::<Vec<_>>().join("; ")
}

#[test]
fn gauges_that_stay_take_nobody_out() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&NAMES, Fake::new());
    for name in NAMES {
        bench.up(&mut controller, name, 1);
    }
    for _ in 0..200 {
        bench.now += Duration::from_millis(100);
        for name in NAMES {
            fail(&bench, &mut controller, name, &hung(Trouble::NoProgress));
        }
        controller.poll(bench.now).unwrap();
        assert_eq!(controller.dataplane.states(), ALL);
    }
    let status = controller.view().status(bench.now).unwrap();
    let backend = &status.backends[0];
    assert_eq!(
        (backend.health.as_str(), &backend.ejected_for),
        ("up", &None)
    );
    assert!(backend.hint.as_ref().unwrap().contains("no progress"));
}

#[test]
fn a_question_that_nobody_answers_takes_a_third_at_most_and_never_the_last() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&NAMES, Fake::new());
    for name in NAMES {
        bench.up(&mut controller, name, 1);
    }
    // With three of four out panic mode would begin.
    for seconds in 0..110 {
        bench.now += Duration::from_secs(1);
        for name in NAMES {
            fail(&bench, &mut controller, name, &hung(Trouble::NoCompletion));
        }
        controller.poll(bench.now).unwrap();
        let states = controller.dataplane.states();
        let out = states.iter().filter(|(_, state)| *state != Up).count();
        if seconds > 3 {
            assert!(out >= 1, "it is noticed");
        }
        assert!(
            out <= 1 + seconds / 60 && out < 4,
            "{out} after {seconds} s"
        );
    }
}

#[test]
fn whose_clients_are_answered_stays_whatever_probes_and_beacons_say() {
    for failure in [
        ProbeFailure::Timeout,
        ProbeFailure::Refused("ICMP".to_owned()),
        ProbeFailure::Tls("expired".to_owned()),
        hung(Trouble::Silent),
        hung(Trouble::NoCompletion),
    ] {
        let (mut bench, mut controller) = start();
        let states = fail_all(&mut bench, &mut controller, &failure, &[1, 2, 3, 4]);
        assert_eq!(states, [vec![Up; 4]], "{failure}");
        let said = why(&controller, "a");
        assert!(said.contains("contradicted"), "{said}");
        let status = controller.view().status(bench.now).unwrap();
        assert_eq!(status.backends[0].health, "degraded");
        assert!(controller.health.contradicted() >= 4);
    }
}

#[test]
fn two_sources_that_agree_reset_open_flows_and_one_does_not() {
    let (mut bench, mut controller) = start();
    // Packets alone, for long.
    traffic(&mut bench, &mut controller, &[2, 3, 4], 100);
    assert_eq!(controller.dataplane.states()[0].1, Draining);
    traffic(&mut bench, &mut controller, &[2, 3, 4], 50);
    assert_eq!(controller.dataplane.states()[0].1, Draining);
    for _ in 0..2 {
        fail(&bench, &mut controller, "a", &ProbeFailure::Timeout);
    }
    assert_eq!(controller.dataplane.states()[0].1, Down);
    let said = why(&controller, "a");
    assert!(
        said.contains("down: probes time out, and it is silent"),
        "{said}"
    );
}

#[test]
fn connections_that_ask_nothing_make_nobody_silent() {
    let (mut bench, mut controller) = start();
    for step in 0..200 {
        bench.now += Duration::from_millis(20);
        for id in 1..=4 {
            let counters = controller.dataplane.traffic.entry(id).or_default();
            counters.flows += 3;
            if id > 1 {
                counters.requests += 1;
                counters.answers += 10;
            }
        }
        controller.poll(bench.now).unwrap();
        assert_eq!(controller.dataplane.states(), ALL, "step {step}");
    }
}

#[test]
fn panic_mode_counts_whoever_is_out_and_revives_whom_no_proof_speaks_against() {
    let (mut bench, mut controller) = start();
    // Refusals that the node cannot confirm, of three of four.
    for id in 1..=3 {
        signals(&mut controller, id, |s| s.refused += 4);
    }
    for _ in 0..40 {
        bench.now += Duration::from_millis(20);
        controller.poll(bench.now).unwrap();
        controller.take_connection_requests();
    }
    assert_eq!(controller.dataplane.states(), ALL);
    // The same with proof.
    let (mut bench, mut controller) = start();
    bench.now += Duration::from_secs(2);
    for name in &NAMES[..3] {
        controller
            .confirm(name, Outcome::Refused, bench.now)
            .unwrap();
    }
    assert_eq!(
        controller.dataplane.states(),
        [(1, Down), (2, Down), (3, Down), (4, Up)]
    );
    // Where all refuse the node, it may be the node that is refused.
    controller
        .confirm(NAMES[3], Outcome::Refused, bench.now)
        .unwrap();
    assert_eq!(controller.dataplane.states(), ALL);
    controller
        .confirm(NAMES[1], Outcome::Connected, bench.now)
        .unwrap();
    assert_eq!(
        controller.dataplane.states(),
        [(1, Down), (2, Up), (3, Down), (4, Down)]
    );
}

#[test]
fn within_a_minute_a_third_is_ejected_by_questions_at_most_in_pools_of_any_size() {
    for (size, most) in [(1, 0), (2, 1), (3, 1), (9, 3)] {
        let names = &["a", "b", "c", "d", "e", "f", "g", "h", "i"][..size];
        let mut bench = Bench::new();
        let mut controller = bench.start(names, Fake::new());
        for name in names {
            bench.up(&mut controller, name, 1);
        }
        let mut ejections: Vec<(usize, Instant)> = Vec::new();
        let mut before: Vec<bool> = vec![true; size];
        for _ in 0..200 {
            bench.now += Duration::from_secs(1);
            for name in names {
                fail(&bench, &mut controller, name, &hung(Trouble::NoCompletion));
            }
            controller.poll(bench.now).unwrap();
            let serves: Vec<bool> = names
                .iter()
                .map(|name| controller.backends.get(name).unwrap().verdict.serves())
                .collect();
            assert!(serves.contains(&true), "the last of {size} stays");
            for index in 0..size {
                if before[index] && !serves[index] {
                    ejections.push((index, bench.now));
                }
            }
            before = serves;
            let minute = |at: &Instant| bench.now - *at < Duration::from_secs(60);
            let recent = ejections.iter().filter(|(_, at)| minute(at)).count();
            assert!(recent <= most, "{recent} of {size} within a minute");
        }
        assert!(size == 1 || !ejections.is_empty());
    }
}
