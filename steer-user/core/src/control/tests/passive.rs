//! Measurements of members by their packets, from the data path to the status.

use steer_common::abi::{LatencyBuckets, Measure, MemberState, Signals, bucket};

use super::{Bench, fake::Fake};
use crate::{
    config::{Config, FirstToken},
    control::{Controller, Status},
    dataplane::{SteeringTables as _, TrafficCounters as _},
};

/// Adds times in milliseconds to what was measured of a member.
fn measure(fake: &mut Fake, id: u16, measure: Measure, times_ms: &[u64]) {
    let measured = fake.measured.entry(id).or_default();
    for ms in times_ms {
        measured.0[measure as usize][bucket(ms * 1_000_000) as usize] += 1;
    }
}

/// Has the controller sweep, which takes a reading.
fn sweep(bench: &mut Bench, controller: &mut Controller<Fake>) {
    for _ in 0..2 {
        bench.now += super::Duration::from_secs(10);
        controller.tick(bench.now).unwrap();
    }
}

#[test]
fn latencies_of_a_member_are_in_the_status() {
    let bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    measure(&mut controller.dataplane, 1, Measure::Connect, &[10; 98]);
    measure(&mut controller.dataplane, 1, Measure::Connect, &[400, 900]);
    measure(&mut controller.dataplane, 1, Measure::SecondBurst, &[250]);
    controller.dataplane.signals.insert(
        1,
        Signals {
            refused: 3,
            ..Signals::default()
        },
    );
    let status: Status = {
        // As the API's client gets it.
        let json = serde_json::to_string(&controller.view().status(bench.now).unwrap()).unwrap();
        serde_json::from_str(&json).unwrap()
    };
    let members = &status.services[0].members;
    let of_a = members[0].passive.as_ref().unwrap();
    let near = |us: Option<u64>, ms: f64| {
        let found = us.unwrap() as f64 / 1000.0;
        assert!((found - ms).abs() <= ms / 8.0, "{found} and not {ms}");
    };
    assert_eq!(of_a.connect.count, 100);
    near(of_a.connect.p50_us, 10.0);
    near(of_a.connect.p95_us, 10.0);
    near(of_a.connect.p99_us, 400.0);
    near(of_a.second_burst.p50_us, 250.0);
    assert_eq!((of_a.refused, of_a.gap.p50_us), (3, None));
    assert_eq!(of_a.first_token, FirstToken::SecondBurst);
    assert_eq!(members[1].passive.as_ref().unwrap().connect.count, 0);
    assert_eq!(members[1].passive.as_ref().unwrap().refused, 0);
}

#[test]
fn the_status_forgets_what_is_older_than_a_minute_and_the_sum_does_not() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a"], Fake::new());
    measure(&mut controller.dataplane, 1, Measure::Gap, &[20; 7]);
    sweep(&mut bench, &mut controller);
    measure(&mut controller.dataplane, 1, Measure::Gap, &[20; 2]);
    let count = |controller: &Controller<Fake>| {
        let passive = controller.view().passive().unwrap().remove(0).passive;
        (passive.recent.gap.count(), passive.total.gap.count())
    };
    // Looking takes nothing away.
    assert_eq!((count(&controller), count(&controller)), ((9, 9), (9, 9)));
    for _ in 0..7 {
        sweep(&mut bench, &mut controller);
    }
    assert_eq!(count(&controller), (0, 9));
}

#[test]
fn only_members_that_can_be_are_measured() {
    let bench = Bench::new();
    let text = |burst: &str| {
        let text = super::text(bench.folder.path(), &["a", "b"]);
        text.replace("[nat]\n", &format!("[nat]\nburst_gap = \"{burst}\"\n"))
            .replacen("mode = \"nat\"", "mode = \"l2\"", 1)
    };
    let config =
        |burst: &str| Config::parse(&text(burst), std::path::Path::new("test.toml")).unwrap();
    let mut controller = Controller::new(config("2ms"), Fake::new(), bench.now).unwrap();
    let measured = |controller: &Controller<Fake>| -> Vec<u16> {
        let found = (1..9).filter(|id| controller.dataplane.latency(*id).unwrap().is_some());
        found.collect()
    };
    assert_eq!(measured(&controller), [2]);
    assert_eq!(
        controller.dataplane.latency(2).unwrap(),
        Some(LatencyBuckets::default())
    );
    assert_eq!(controller.view().passive().unwrap()[0].backend, "b");
    controller.reconfigure(config("0s"), bench.now).unwrap();
    assert_eq!(measured(&controller), [] as [u16; 0]);
    assert_eq!(controller.dataplane.config().burst_gap_us, 0);
    assert!(controller.view().passive().unwrap().is_empty());
}

#[test]
fn refusals_count_from_the_last_look_on_whatever_the_configuration_was_then() {
    let mut bench = Bench::new();
    let mut fake = Fake::new();
    let refused = |fake: &mut Fake, refused| {
        let signals = Signals {
            refused,
            ..Signals::default()
        };
        fake.signals.insert(1, signals);
    };
    // Of yesterday.
    refused(&mut fake, 70);
    let mut controller = bench.start(&["a", "b"], fake);
    for name in ["a", "b"] {
        bench.up(&mut controller, name, 1);
    }
    let look = |bench: &mut Bench, controller: &mut Controller<Fake>| {
        bench.now += super::Duration::from_millis(20);
        controller.poll(bench.now).unwrap();
        controller.dataplane.states()[0].1
    };
    for _ in 0..3 {
        assert_eq!(look(&mut bench, &mut controller), MemberState::Up);
    }
    refused(&mut controller.dataplane, 71);
    assert_eq!(look(&mut bench, &mut controller), MemberState::Up);
    // Packets alone are not believed.
    let requests = controller.take_connection_requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].address.to_string(), "10.0.1.97:80");
    // The same backends, and one more.
    let config = super::config(bench.folder.path(), &["a", "b", "c"]);
    controller.reconfigure(config, bench.now).unwrap();
    assert_eq!(look(&mut bench, &mut controller), MemberState::Up);
    refused(&mut controller.dataplane, 72);
    assert_eq!(look(&mut bench, &mut controller), MemberState::Up);
    let outcome = steer_probe::probe::confirmation::Outcome::Refused;
    controller.confirm("a", outcome, bench.now).unwrap();
    assert_eq!(controller.dataplane.states()[0].1, MemberState::Down);
}
