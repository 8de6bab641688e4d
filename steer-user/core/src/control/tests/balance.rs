//! Loads, flapping, panic and price, as the loop takes them in.

use steer_probe::probe::{ProbeFailure, Trouble};

use super::*;
use crate::domain::passive::Counts;

/// The share of each backend's number in the table, in percent.
fn shares(controller: &Controller<Fake>, backends: usize) -> Vec<u32> {
    let slots = controller
        .dataplane
        .slots(controller.site.tables[0].clone());
    let count = |id: u16| slots.iter().filter(|slot| slot.first == id).count();
    let percent = |id| (count(id) as f64 * 100.0 / slots.len() as f64).round() as u32;
    (1..=backends as u16).map(percent).collect()
}

fn with(folder: &Path, names: &[&str], change: impl Fn(String) -> String) -> Config {
    let text = change(text(folder, names));
    Config::parse(&text, Path::new("test.toml")).unwrap()
}

fn fail(
    bench: &mut Bench,
    controller: &mut Controller<Fake>,
    backend: &str,
    failure: &ProbeFailure,
) {
    for _ in 0..2 {
        bench.now += Duration::from_millis(100);
        let measurement = Measurement {
            backend: backend.to_owned(),
            at: bench.now,
            outcome: Err(failure.clone()),
        };
        controller.measure(measurement).unwrap();
    }
}

fn hot(controller: &Controller<Fake>, id: u16) -> bool {
    controller.dataplane.member(id).flags & member_flags::HOT != 0
}

#[test]
fn load_moves_new_flows_in_small_steps_and_only_those() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    controller
        .tick(bench.now + Duration::from_secs(70))
        .unwrap();
    bench.now += Duration::from_secs(70);
    assert_eq!(shares(&controller, 2), [50, 50]);
    let mut last = 50;
    for _ in 0..20 {
        bench.now += Duration::from_secs(2);
        bench.loaded(&mut controller, "a", 80.0);
        bench.loaded(&mut controller, "b", 20.0);
        controller.poll(bench.now).unwrap();
        let share = shares(&controller, 2)[0];
        assert!(share <= last && last - share <= 6, "{last} -> {share}");
        last = share;
    }
    // The node does not see that the other one has less to do: a quarter more than its share is all that it gains.
    assert!((36..=38).contains(&last), "{last}");
    // Nobody's open flows have another owner before they are gone.
    let slots = controller
        .dataplane
        .slots(controller.site.tables[0].clone());
    let moved = slots.iter().filter(|slot| slot.first != slot.owner).count();
    assert!(moved * 10 > slots.len(), "{moved}");
    let why = controller.view().decisions("a").unwrap();
    let last = why.iter().rev().find(|d| d.what == "share").unwrap();
    assert!(
        last.because.iter().any(|b| b.starts_with("use 8")),
        "{last:?}"
    );
    assert!(controller.view().decisions("nobody").is_err());
}

#[test]
fn without_reports_weights_stay_and_status_says_so() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    for _ in 0..3 {
        bench.now += Duration::from_secs(2);
        controller.poll(bench.now).unwrap();
    }
    assert_eq!(shares(&controller, 2), [50, 50]);
    assert!(controller.view().status(bench.now).unwrap().services[0].silent);
    bench.loaded(&mut controller, "a", 50.0);
    let status = controller.view().status(bench.now).unwrap();
    assert!(status.backends[0].used.unwrap() > 0.4);
    bench.now += Duration::from_secs(2);
    controller.poll(bench.now).unwrap();
    assert!(!controller.view().status(bench.now).unwrap().services[0].silent);
    // A report that is too old is no report.
    let later = bench.now + Duration::from_secs(4);
    assert_eq!(
        controller.view().status(later).unwrap().backends[0].used,
        None
    );
}

#[test]
fn a_hot_backend_has_its_bit_and_keeps_its_slots() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    let before = shares(&controller, 2);
    bench.loaded(&mut controller, "a", 95.0);
    assert!(hot(&controller, 1) && !hot(&controller, 2));
    assert_eq!(shares(&controller, 2), before);
    bench.loaded(&mut controller, "a", 80.0);
    assert!(hot(&controller, 1));
    // The bit outlives a change of the way.
    let hop = NextHop {
        macs: Macs::new([1; 6], [2; 6]),
        interface: 7,
        vlan: 0,
        mtu: 1500,
        reply_interfaces: [7; 2],
    };
    controller.set_next_hop("a", Some(hop), bench.now).unwrap();
    assert!(hot(&controller, 1));
    bench.loaded(&mut controller, "a", 70.0);
    assert!(!hot(&controller, 1));
    assert_ne!(
        controller.dataplane.member(1).flags & member_flags::RESOLVED,
        0
    );
}

#[test]
fn a_flapping_backend_is_left_out_and_its_open_flows_are_not() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b", "c"], Fake::new());
    for name in ["a", "b", "c"] {
        bench.up(&mut controller, name, 1);
    }
    for _ in 0..3 {
        for _ in 0..4 {
            bench.probe(&mut controller, "a", None);
        }
        bench.up(&mut controller, "a", 1);
        bench.now += Duration::from_millis(500);
    }
    assert_eq!(controller.dataplane.states()[0], (1, Draining));
    assert_eq!(shares(&controller, 3)[0], 0);
    let status = controller.view().status(bench.now).unwrap();
    assert_eq!(status.backends[0].health, "up");
    assert!(status.backends[0].ejected_for.is_some());
    // It goes on to answer, and is let in again: with a part of its weight.
    for _ in 0..150 {
        bench.probe(&mut controller, "a", Some(1));
    }
    assert_eq!(controller.dataplane.states()[0], (1, Up));
    let share = shares(&controller, 3)[0];
    assert!((2..10).contains(&share), "{share}");
}

#[test]
fn probes_that_cannot_be_believed_take_nobody_out() {
    let mut bench = Bench::new();
    let names = ["a", "b", "c"];
    let mut controller = bench.start(&names, Fake::new());
    for name in names {
        bench.up(&mut controller, name, 1);
    }
    // As when the CA has expired.
    let failure = ProbeFailure::Tls("expired".to_owned());
    for name in names {
        fail(&mut bench, &mut controller, name, &failure);
    }
    let up = [(1, Up), (2, Up), (3, Up)];
    assert_eq!(controller.dataplane.states(), up);
    let all = shares(&controller, 3);
    assert!(all.iter().all(|share| (32..35).contains(share)), "{all:?}");
    // One says that it is dead: that keeps new flows away.
    fail(&mut bench, &mut controller, "c", &ProbeFailure::BackendDown);
    assert_eq!(controller.dataplane.states()[2], (3, Draining));
    assert_eq!(shares(&controller, 3)[2], 0);
    // With two that answer probes are believed again.
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "c", 1);
    let states = [(1, Up), (2, Draining), (3, Up)];
    assert_eq!(controller.dataplane.states(), states);
}

#[test]
fn silence_of_most_of_many_is_not_believed_and_of_few_it_is() {
    let mut bench = Bench::new();
    let names = ["a", "b", "c", "d", "e"];
    let mut controller = bench.start(&names, Fake::new());
    for name in names {
        bench.up(&mut controller, name, 1);
    }
    for name in ["a", "b"] {
        fail(&mut bench, &mut controller, name, &ProbeFailure::Timeout);
    }
    let silent = [(1, Draining), (2, Draining)];
    assert_eq!(controller.dataplane.states()[..2], silent);
    bench.now += GONE_AFTER;
    for name in ["a", "b"] {
        fail(&mut bench, &mut controller, name, &ProbeFailure::Timeout);
    }
    assert_eq!(controller.dataplane.states()[..2], [(1, Down), (2, Down)]);
    let hung = ProbeFailure::Hung {
        trouble: Trouble::NoCompletion,
        seconds: 5,
    };
    fail(&mut bench, &mut controller, "c", &hung);
    // Two of five are left: those that nobody answered are used again, and so is one that hangs.
    let states = [(1, Up), (2, Up), (3, Up), (4, Up), (5, Up)];
    assert_eq!(controller.dataplane.states(), states);
    let why = controller.view().decisions("c").unwrap();
    let verdict = why.iter().rfind(|decision| decision.what == "verdict");
    let effect = &verdict.unwrap().effect;
    assert!(
        effect.contains("down: it does not answer a tiny"),
        "{effect}"
    );
    bench.up(&mut controller, "c", 1);
    let states = [(1, Down), (2, Down), (3, Up), (4, Up), (5, Up)];
    assert_eq!(controller.dataplane.states(), states);
}

#[test]
fn refused_connections_take_a_backend_out_before_any_probe() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    let counts = |refused, accepted| Counts {
        refused,
        accepted,
        ..Counts::default()
    };
    // What was before the daemon says nothing.
    watch(&mut controller, "a", counts(70, 0), bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Up), (2, Up)]);
    watch(&mut controller, "a", counts(72, 0), bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
    assert_eq!(shares(&controller, 2), [0, 100]);
    let again = bench.now + Duration::from_secs(1);
    watch(&mut controller, "a", counts(72, 0), again).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Up), (2, Up)]);
}

#[test]
fn a_split_begins_at_once_and_moves_slowly() {
    let mut bench = Bench::new();
    let folder = bench.folder.path().to_owned();
    let split = |old: u32| {
        let chain = format!(
            "[[pool]]\nname = \"new\"\nbackends = [\"b\"]\n[[service]]\nname = \"chat\"\n\
             split = {{ all = {old}, new = {} }}\nsplit_shift = 2",
            100 - old
        );
        with(&folder, &["a", "b"], move |text| {
            text.replace("[[service]]\nname = \"chat\"", &chain)
                .replace("backends = [\"a\", \"b\"]", "backends = [\"a\"]")
                .replace("pools = [\"all\"]", "pools = [\"all\", \"new\"]")
        })
    };
    let mut controller = Controller::new(split(90), Fake::new(), bench.now).unwrap();
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    assert_eq!(shares(&controller, 2), [90, 10]);
    bench.now += Duration::from_secs(2);
    controller.poll(bench.now).unwrap();
    controller.reconfigure(split(50), bench.now).unwrap();
    assert_eq!(shares(&controller, 2), [90, 10]);
    for step in 1..=12 {
        bench.now += Duration::from_secs(2);
        controller.poll(bench.now).unwrap();
        let want = (90 - 4 * step).max(50);
        assert!(shares(&controller, 2)[0].abs_diff(want) <= 1, "{step}");
    }
}
