//! Weak, single or forged signals against backends that serve.

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
fn forged_refusals_are_contradicted_by_a_connection_of_the_nodes_own() {
    let (mut bench, mut controller) = start();
    let mut tried = 0;
    for step in 0..500 {
        bench.now += Duration::from_millis(20);
        signals(&mut controller, 1, |s| {
            s.refused += 3;
            s.unanswered += u64::from(step % 2 == 0) * 12;
        });
        controller.poll(bench.now).unwrap();
        for request in controller.take_connection_requests() {
            tried += 1;
            assert_eq!(request.backend, "a");
            controller
                .confirm("a", Outcome::Connected, bench.now)
                .unwrap();
        }
        assert_eq!(controller.dataplane.states(), ALL, "step {step}");
    }
    assert!(
        (5..40).contains(&tried),
        "{tried} connections in ten seconds"
    );
    assert!(why(&controller, "a").contains("contradicted"));
}

#[test]
fn a_refusal_at_an_address_that_the_backend_has_left_is_none_of_its_own() {
    let (mut bench, mut controller) = start();
    signals(&mut controller, 2, |s| s.refused += 1);
    bench.now += Duration::from_millis(20);
    controller.poll(bench.now).unwrap();
    let mut requests = controller.take_connection_requests();
    let request = requests.pop().unwrap();
    let elsewhere = ConnectionRequest {
        address: "10.7.7.7:80".parse().unwrap(),
        ..request.clone()
    };
    controller
        .answer_request(&elsewhere, Outcome::Refused, bench.now)
        .unwrap();
    assert_eq!(controller.dataplane.states(), ALL);
    controller
        .answer_request(&request, Outcome::Refused, bench.now)
        .unwrap();
    assert_ne!(controller.dataplane.states()[1].1, Up);
}

#[test]
fn a_refusal_that_is_confirmed_counts_at_once_and_ends_with_a_connection() {
    let (mut bench, mut controller) = start();
    signals(&mut controller, 2, |s| s.refused += 1);
    bench.now += Duration::from_millis(20);
    controller.poll(bench.now).unwrap();
    assert_eq!(controller.take_connection_requests().len(), 1);
    controller
        .confirm("b", Outcome::Refused, bench.now)
        .unwrap();
    // Its clients were answered just now: open flows may be served to their end.
    assert_eq!(controller.dataplane.states()[1].1, Draining);
    let mut tried = 0;
    for _ in 0..200 {
        bench.now += Duration::from_millis(20);
        controller.poll(bench.now).unwrap();
        for _ in controller.take_connection_requests() {
            tried += 1;
            controller
                .confirm("b", Outcome::Refused, bench.now)
                .unwrap();
        }
    }
    assert!(
        (4..12).contains(&tried),
        "{tried} connections in four seconds"
    );
    assert_eq!(controller.dataplane.states()[1].1, Down);
    bench.now += Duration::from_millis(20);
    controller
        .confirm("b", Outcome::Connected, bench.now)
        .unwrap();
    assert_eq!(controller.dataplane.states()[1].1, Up);
}

#[test]
fn where_the_node_cannot_connect_packets_count_as_testimony() {
    let (mut bench, mut controller) = start();
    signals(&mut controller, 2, |s| s.refused += 2);
    for _ in 0..30 {
        bench.now += Duration::from_millis(20);
        controller.poll(bench.now).unwrap();
        controller.take_connection_requests();
    }
    assert_eq!(controller.dataplane.states()[1].1, Draining);
}

#[test]
fn a_beacon_that_says_refused_is_asked_after() {
    let (mut bench, mut controller) = start();
    for _ in 0..2 {
        fail(&bench, &mut controller, "a", &ProbeFailure::BackendDown);
    }
    assert_eq!(controller.dataplane.states()[0].1, Draining);
    assert_eq!(controller.take_connection_requests().len(), 1);
    controller
        .confirm("a", Outcome::Connected, bench.now)
        .unwrap();
    assert_eq!(controller.dataplane.states(), ALL);
    bench.now += Duration::from_secs(2);
    controller.poll(bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), ALL);
    controller
        .confirm("a", Outcome::Refused, bench.now)
        .unwrap();
    assert_eq!(controller.dataplane.states()[0].1, Down);
}

/// Has each backend accept a connection in each step, which the first one fails in a way. Returns after how many steps
/// it took no new flows.
fn fail_fast(failure: impl Fn(&mut Signals)) -> (Bench, Controller<Fake>, Option<u64>) {
    let (mut bench, mut controller) = start();
    for id in 1..=4 {
        signals(&mut controller, id, |s| s.accepted += 20);
    }
    traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 100);
    let after = (1..=200).find(|_| {
        for id in 1..=4 {
            signals(&mut controller, id, |s| s.accepted += 1);
        }
        signals(&mut controller, 1, &failure);
        traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 1);
        controller.dataplane.states()[0].1 != Up
    });
    (bench, controller, after)
}

#[test]
fn fast_failures_are_ejected_for_longer_each_time() {
    for (failure, reason) in [
        (
            (|s: &mut Signals| s.resets += 1) as fn(&mut Signals),
            "resets",
        ),
        (|s| s.ended_early += 1, "without an answer"),
    ] {
        let (mut bench, mut controller, after) = fail_fast(failure);
        assert!(after.is_some_and(|after| after <= 40), "{after:?}");
        assert_eq!(controller.dataplane.states()[0].1, Draining);
        let said = why(&controller, "a");
        assert!(said.contains("ejected for 30 s: it"), "{said}");
        assert!(said.contains(reason), "{said}");
        bench.now += Duration::from_secs(31);
        traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 100);
        assert_eq!(controller.dataplane.states(), ALL);
        for _ in 0..100 {
            for id in 1..=4 {
                signals(&mut controller, id, |s| s.accepted += 1);
            }
            signals(&mut controller, 1, failure);
            traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 1);
        }
        let said = why(&controller, "a");
        assert!(said.contains("ejected for 60 s"), "{said}");
    }
}

#[test]
fn what_all_fail_is_nobodys_fault() {
    let (mut bench, mut controller) = start();
    for _ in 0..100 {
        for id in 1..=4 {
            signals(&mut controller, id, |s| {
                s.accepted += 1;
                s.resets += 1;
            });
        }
        traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 2);
        assert_eq!(controller.dataplane.states(), ALL);
    }
}

#[test]
fn a_backend_that_fails_a_part_weighs_less_at_once() {
    let (mut bench, mut controller) = start();
    for step in 0..60_u64 {
        for id in 1..=4 {
            signals(&mut controller, id, |s| s.accepted += 1);
        }
        signals(&mut controller, 1, |s| s.resets += u64::from(step % 5 < 2));
        traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 2);
    }
    let said = why(&controller, "a");
    assert_eq!(controller.dataplane.states(), ALL, "{said}");
    let slots = controller
        .dataplane
        .slots(controller.site.tables[0].clone());
    let own = slots.iter().filter(|slot| slot.first == 1).count();
    let share = own as f64 / slots.len() as f64;
    assert!((0.10..0.20).contains(&share), "{share}");
    let status = controller.view().status(bench.now).unwrap();
    assert!(
        status.backends[0].degraded[0].contains("fails"),
        "{:?}",
        status.backends[0]
    );
}

/// Adds requests of a member with answers of so many bytes, whose first byte came after so long.
fn answer(controller: &mut Controller<Fake>, id: u16, bytes: u64, after: Duration) {
    let fake = &mut controller.dataplane;
    let counters = fake.traffic.entry(id).or_default();
    counters.flows += 1;
    counters.requests += 1;
    // As many packets whatever is in them: silence is another matter.
    counters.answers += 10;
    counters.answer_bytes += bytes;
    let measured = fake.measured.entry(id).or_default();
    measured.0[Measure::FirstByte as usize][bucket(after.as_nanos() as u64) as usize] += 1;
}

#[test]
fn one_that_answers_429_at_once_does_not_attract() {
    let (mut bench, mut controller) = start();
    let usual = Duration::from_millis(60);
    let mut step = |controller: &mut Controller<Fake>, bytes, after| {
        for id in 2..=4 {
            answer(controller, id, 12_000, usual);
        }
        answer(controller, 1, bytes, after);
        bench.now += Duration::from_millis(20);
        controller.poll(bench.now).unwrap();
        controller.dataplane.states()[0].1
    };
    for _ in 0..200 {
        assert_eq!(step(&mut controller, 12_000, usual), Up);
    }
    // Long prompts: little comes back, and no sooner than elsewhere.
    for _ in 0..100 {
        assert_eq!(step(&mut controller, 300, usual), Up);
    }
    for _ in 0..600 {
        assert_eq!(step(&mut controller, 12_000, usual), Up);
    }
    let fast = Duration::from_micros(800);
    let lost = (1..100).find(|_| step(&mut controller, 250, fast) != Up);
    assert!(lost.is_some_and(|lost| lost <= 15), "{lost:?}");
    let said = why(&controller, "a");
    assert!(said.contains("much smaller than its peers"), "{said}");
}

#[test]
fn one_without_measured_answers_is_not_ejected_for_small_ones() {
    let (mut bench, mut controller) = start();
    let usual = Duration::from_millis(60);
    for step in 0..400 {
        for id in 1..=4 {
            answer(&mut controller, id, 12_000, usual);
        }
        // Out of reach for a while: requests are counted, and no first byte of an answer is seen.
        if step >= 200 {
            let fake = &mut controller.dataplane;
            fake.traffic.get_mut(&1).unwrap().answer_bytes -= 11_900;
            let measured = fake.measured.get_mut(&1).unwrap();
            measured.0[Measure::FirstByte as usize][bucket(usual.as_nanos() as u64) as usize] -= 1;
        }
        bench.now += Duration::from_millis(20);
        controller.poll(bench.now).unwrap();
        assert_eq!(controller.dataplane.states(), ALL, "step {step}");
    }
}

#[test]
fn one_that_stops_amid_its_answers_is_silent_and_cuts_none_short() {
    let (mut bench, mut controller) = start();
    let usual = Duration::from_millis(60);
    let burst = bucket(Duration::from_millis(80).as_nanos() as u64) as usize;
    for step in 0..300 {
        for id in 1..=4 {
            answer(&mut controller, id, 12_000, usual);
            let fake = &mut controller.dataplane;
            let measured = fake.measured.get_mut(&id).unwrap();
            measured.0[Measure::SecondBurst as usize][burst] += 1;
        }
        if step >= 200 {
            let fake = &mut controller.dataplane;
            let counters = fake.traffic.get_mut(&1).unwrap();
            counters.answer_bytes -= 11_900;
            let measured = fake.measured.get_mut(&1).unwrap();
            measured.0[Measure::SecondBurst as usize][burst] -= 1;
            if step >= 205 {
                counters.answers -= 10;
                let first = bucket(usual.as_nanos() as u64) as usize;
                measured.0[Measure::FirstByte as usize][first] -= 1;
            }
        }
        bench.now += Duration::from_millis(20);
        controller.poll(bench.now).unwrap();
    }
    let said = why(&controller, "a");
    assert!(said.contains("silent"), "{said}");
    assert!(!said.contains("much smaller"), "{said}");
}

/// The share of each backend in percent after ticks with these loads and times to the first token.
fn shares_by(claims: &[(f64, f64)]) -> Vec<f64> {
    let mut bench = Bench::new();
    let names = &NAMES[..claims.len()];
    let mut controller = bench.start(names, Fake::new());
    for name in names {
        bench.up(&mut controller, name, 1);
    }
    for _ in 0..40 {
        bench.now += Duration::from_secs(2);
        for (name, (load, token)) in names.iter().zip(claims) {
            let measurement = Measurement {
                backend: (*name).to_owned(),
                at: bench.now,
                outcome: Ok(Sample {
                    rtt: Duration::from_millis(1),
                    handshake: None,
                    report: OrcaLoadReport::default(),
                    load: Load {
                        kv_use: Some(*load),
                        first_token_p50: Some(*token),
                        ..Load::default()
                    },
                }),
            };
            controller.measure(measurement).unwrap();
        }
        controller.poll(bench.now).unwrap();
    }
    let status = controller.view().status(bench.now).unwrap();
    for backend in &status.backends {
        assert_eq!(backend.degraded, [] as [&str; 0], "{}", backend.name);
    }
    let range = controller.site.tables[0].clone();
    let slots = controller.dataplane.slots(range);
    let of = |id: u16| slots.iter().filter(|slot| slot.first == id).count();
    let all = 1..=names.len() as u16;
    all.map(|id| of(id) as f64 * 100.0 / slots.len() as f64)
        .collect()
}

#[test]
fn a_beacon_that_lies_gains_a_quarter_at_most() {
    for lie in [(0.7, 1e-6), (0.0, 1e-4), (0.0, 0.1)] {
        for honest in 2..=3 {
            let mut claims = vec![(0.7, 0.1); honest];
            claims.push(lie);
            let shares = shares_by(&claims);
            let fair = 100.0 / (honest + 1) as f64;
            let liar = shares[honest];
            assert!(liar <= fair * 1.27, "{lie:?}: {shares:?}");
            for own in &shares[..honest] {
                assert!(*own >= fair * 0.8, "{lie:?}: {shares:?}");
            }
        }
    }
}

#[test]
fn what_is_reported_hot_is_explained_by_the_use_it_was_judged_by() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    bench.loaded(&mut controller, "a", 10.0);
    bench.loaded(&mut controller, "a", 97.0);
    let all = controller.view().decisions("a").unwrap();
    let hot = all.iter().rfind(|decision| decision.what == "hot").unwrap();
    let said = hot.because.join("; ");
    assert!(
        said.contains("use 97 % as reported last; hot from 90 %"),
        "{said}"
    );
}

/// Faults at random, none of which keeps a backend from answering its clients.
#[test]
fn weak_signals_at_random_never_take_out_who_serves() {
    for seed in 0..3 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut bench, mut controller) = start();
        for _ in 0..150 {
            let name = NAMES[random.random_range(0..NAMES.len())];
            let id = random.random_range(1..=4);
            let failure = match random.random_range(0..6) {
                0 => ProbeFailure::Timeout,
                1 => ProbeFailure::Refused("ICMP".to_owned()),
                2 => ProbeFailure::Malformed("noise".to_owned()),
                3 => hung(Trouble::NoProgress),
                4 => hung(Trouble::NoCompletion),
                _ => hung(Trouble::Silent),
            };
            match random.random_range(0..4) {
                0 => bench.probe(&mut controller, name, Some(1)),
                1 => signals(&mut controller, id, |s| s.refused += 4),
                2 => signals(&mut controller, id, |s| s.unanswered += 12),
                _ => {
                    for _ in 0..random.random_range(1..20) {
                        fail(&bench, &mut controller, name, &failure);
                    }
                }
            }
            for _ in 0..random.random_range(1..20) {
                traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 1);
                for request in controller.take_connection_requests() {
                    let outcome = Outcome::Connected;
                    controller
                        .confirm(&request.backend, outcome, bench.now)
                        .unwrap();
                }
                assert_eq!(controller.dataplane.states(), ALL, "seed {seed}");
            }
        }
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
fn one_backend_that_refuses_is_down() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.now += Duration::from_secs(2);
    controller
        .confirm("a", Outcome::Refused, bench.now)
        .unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Down)]);
}

#[test]
fn beacons_that_all_fail_at_once_take_nobody_out() {
    for failure in [
        ProbeFailure::Timeout,
        ProbeFailure::Refused("ICMP".to_owned()),
        ProbeFailure::Tls("expired".to_owned()),
        ProbeFailure::Identity("of another region".to_owned()),
        ProbeFailure::Malformed("no report".to_owned()),
        hung(Trouble::Silent),
    ] {
        let (mut bench, mut controller) = start();
        // Nobody asks anything: an idle site.
        for _ in 0..100 {
            bench.now += Duration::from_millis(100);
            for name in NAMES {
                fail(&bench, &mut controller, name, &failure);
            }
            controller.poll(bench.now).unwrap();
        }
        assert_eq!(controller.dataplane.states(), ALL, "{failure}");
    }
}

#[test]
fn one_that_nobody_has_measured_does_not_stand_in_for_the_last() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    for _ in 0..20 {
        bench.now += Duration::from_secs(1);
        fail(&bench, &mut controller, "a", &hung(Trouble::NoCompletion));
        controller.poll(bench.now).unwrap();
    }
    assert_eq!(controller.dataplane.states()[0].1, Up);
    // Now there is another one.
    bench.up(&mut controller, "b", 1);
    for _ in 0..3 {
        bench.now += Duration::from_secs(1);
        fail(&bench, &mut controller, "a", &hung(Trouble::NoCompletion));
        controller.poll(bench.now).unwrap();
    }
    assert_ne!(controller.dataplane.states()[0].1, Up);
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

/// Fault of a backend for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    SlowPage,
    LongPrompt,
    Forged,
    Paused,
    Restarted,
}

impl Fault {
    /// Returns whether it answers its clients all the same.
    fn serves(self) -> bool {
        !matches!(self, Self::Paused | Self::Restarted)
    }

    fn probe(self) -> Option<ProbeFailure> {
        match self {
            Self::Nothing | Self::Forged => None,
            Self::SlowPage => Some(hung(Trouble::Silent)),
            Self::LongPrompt => Some(hung(Trouble::NoCompletion)),
            Self::Paused => Some(ProbeFailure::Timeout),
            Self::Restarted => Some(ProbeFailure::BackendDown),
        }
    }
}

/// One look of a bench in which a member has a fault; returns the members that left.
fn look(
    bench: &mut Bench,
    controller: &mut Controller<Fake>,
    (victim, fault): (u16, Fault),
    answered: &mut [Instant; 4],
) -> Vec<u16> {
    bench.now += Duration::from_millis(20);
    let before = controller.dataplane.states();
    for id in 1..=4 {
        let answers = id != victim || fault.serves();
        let counters = controller.dataplane.traffic.entry(id).or_default();
        counters.flows += 1;
        counters.requests += 1;
        if answers {
            counters.answers += 10;
            counters.answer_bytes += 10_000;
            answered[usize::from(id) - 1] = bench.now;
        }
    }
    if fault == Fault::Forged {
        signals(controller, victim, |s| {
            s.refused += 2;
            s.unanswered += 3;
        });
    }
    controller.poll(bench.now).unwrap();
    for request in controller.take_connection_requests() {
        let is_victim = request.backend == NAMES[usize::from(victim) - 1];
        let outcome = match fault {
            Fault::Restarted if is_victim => Outcome::Refused,
            _ => Outcome::Connected,
        };
        controller
            .confirm(&request.backend, outcome, bench.now)
            .unwrap();
    }
    let after = controller.dataplane.states();
    let left = before.iter().zip(&after);
    let left = left.filter(|(before, after)| before.1 == Up && after.1 != Up);
    left.map(|(before, _)| before.0).collect()
}

#[test]
fn a_day_of_false_alarms_ejects_nobody_who_serves() {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut random = StdRng::seed_from_u64(24);
    let (mut bench, mut controller) = start();
    let begun = bench.now;
    let mut answered = [bench.now; 4];
    let mut ejections = 0;
    while bench.now - begun < DAY {
        bench.now += Duration::from_millis(random.random_range(0..1_700_000));
        // Clients come back before anything happens.
        for _ in 0..15 {
            let left = look(
                &mut bench,
                &mut controller,
                (1, Fault::Nothing),
                &mut answered,
            );
            assert_eq!(left, [] as [u16; 0]);
        }
        let fault = [
            Fault::SlowPage,
            Fault::LongPrompt,
            Fault::Forged,
            Fault::Paused,
            Fault::Restarted,
        ][random.random_range(0..5)];
        let victim = random.random_range(1..=4);
        for step in 0..random.random_range(5..120) {
            if step % 5 == 0
                && let Some(failure) = fault.probe()
            {
                let name = NAMES[usize::from(victim) - 1];
                fail(&bench, &mut controller, name, &failure);
            }
            for id in look(&mut bench, &mut controller, (victim, fault), &mut answered) {
                let ago = bench.now - answered[usize::from(id) - 1];
                let known = fault == Fault::Restarted && id == victim;
                assert!(
                    known || ago >= Duration::from_millis(140),
                    "{id} was answered {ago:?} ago, {fault:?} of {victim}"
                );
                ejections += 1;
            }
        }
        for name in NAMES {
            bench.up(&mut controller, name, 1);
        }
        for name in NAMES {
            controller
                .confirm(name, Outcome::Connected, bench.now)
                .unwrap();
        }
        // Whoever paused is back once it answers.
        for _ in 0..10 {
            look(
                &mut bench,
                &mut controller,
                (1, Fault::Nothing),
                &mut answered,
            );
        }
        assert_eq!(controller.dataplane.states(), ALL, "{fault:?} of {victim}");
    }
    assert!(ejections > 15, "{ejections}: real faults are noticed");
}
