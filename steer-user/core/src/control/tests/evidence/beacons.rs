//! Beacons that lie, or fail all at once.

use super::*;

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
