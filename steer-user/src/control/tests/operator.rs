//! What the operator says: drains with a deadline, and weights.

use std::time::SystemTime;

use super::*;
use crate::control::{Drain, Refused};

fn within(time: Duration) -> Option<Drain> {
    let until = Some(SystemTime::now() + time);
    Some(Drain { until })
}

fn state(controller: &Controller<Fake>) -> String {
    controller.drain_status(0).unwrap().state
}

#[test]
fn a_drain_ends_open_flows_at_its_deadline_and_not_before() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    assert_eq!(controller.drain_status(0), None);
    let minute = Duration::from_secs(60);
    controller
        .drain_by("a", within(minute), "test", bench.now)
        .unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
    controller.tick(bench.now + minute / 2).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
    assert_eq!(state(&controller), "draining");
    controller.tick(bench.now + minute).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Up)]);
    assert_eq!(state(&controller), "gone");
    // Probes that are answered change nothing of that, a word of the operator does.
    bench.up(&mut controller, "a", 1);
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Up)]);
    controller.drain("a", false, bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Up), (2, Up)]);
}

#[test]
fn a_deadline_outlives_the_daemon_and_one_that_passed_meanwhile_is_due() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    let minute = Duration::from_secs(60);
    controller
        .drain_by("a", within(minute), "test", bench.now)
        .unwrap();
    let mut controller = bench.start(&["a", "b"], controller.dataplane.clone());
    controller.tick(bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
    controller.tick(bench.now + 2 * minute).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Up)]);

    let past = Some(Drain {
        until: Some(SystemTime::now() - minute),
    });
    controller.drained.set("b", past);
    let mut controller = bench.start(&["a", "b"], controller.dataplane.clone());
    controller.tick(bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Down)]);
}

#[test]
fn a_drained_backend_is_gone_once_nothing_is_open_at_it() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    controller.dataplane.tracked = vec![(0, 1)];
    controller.drain("a", true, bench.now).unwrap();
    let status = controller.drain_status(0).unwrap();
    assert!(status.slots > 0, "{status:?}");
    assert_eq!(status.state, "draining");
    // The slots' open flows are over after the idle timeout, the remembered one is not.
    for seconds in [61, 75, 90] {
        controller
            .tick(bench.now + Duration::from_secs(seconds))
            .unwrap();
    }
    let status = controller.drain_status(0).unwrap();
    assert_eq!((status.slots, status.flows), (0, 1), "{status:?}");
    assert_eq!(status.state, "draining");
    controller.dataplane.tracked.clear();
    for seconds in [105, 120] {
        controller
            .tick(bench.now + Duration::from_secs(seconds))
            .unwrap();
    }
    assert_eq!(state(&controller), "gone");
    // It is gone of itself: nobody is cut off by that.
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
}

fn share(controller: &Controller<Fake>, member: u16) -> f64 {
    let slots = controller.dataplane.slots(controller.tables[0].clone());
    let own = slots.iter().filter(|slot| slot.first == member).count();
    own as f64 / slots.len() as f64
}

#[test]
fn a_weight_stands_in_for_the_capacity_and_outlives_the_daemon() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    controller
        .weigh_by("a", Some(3), "test", bench.now)
        .unwrap();
    assert!((share(&controller, 1) - 0.75).abs() < 0.02);
    for wrong in [0, 1_000_001] {
        let said = controller.weigh_by("a", Some(wrong), "test", bench.now);
        assert!(matches!(said, Err(Refused::Weight)), "{wrong}");
    }
    let nobody = controller.weigh_by("nobody", None, "test", bench.now);
    assert!(matches!(nobody, Err(Refused::Unknown(_))));
    let mut controller = bench.start(&["a", "b"], controller.dataplane.clone());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    assert!((share(&controller, 1) - 0.75).abs() < 0.02);
    controller.weigh_by("a", None, "test", bench.now).unwrap();
    assert!((share(&controller, 1) - 0.5).abs() < 0.02);
}

#[test]
fn drains_and_weights_count_where_they_cannot_be_saved_and_are_saved_later() {
    let bench = Bench::new();
    let state = bench.folder.path().join("state");
    let config = config(&state, &["a", "b"]);
    let mut controller = Controller::new(config, Fake::new(), bench.now).unwrap();
    // A file in the place of the folder: root, too, cannot write below it.
    std::fs::write(&state, "").unwrap();
    assert_eq!(controller.unsaved(), Vec::<String>::new());
    controller.drain("a", true, bench.now).unwrap();
    controller
        .weigh_by("b", Some(7), "test", bench.now)
        .unwrap();
    let unsaved = controller.status(bench.now).unwrap().unsaved;
    assert_eq!(unsaved.len(), 2, "{unsaved:?}");
    assert!(unsaved[0].contains("drained.json") && unsaved[1].contains("weights.json"));
    assert!(controller.known["a"].drained.is_some());
    assert_eq!(controller.known["b"].weight, Some(7));
    controller.save_operator();
    assert_eq!(controller.unsaved().len(), 2);
    std::fs::remove_file(&state).unwrap();
    controller.save_operator();
    assert_eq!(controller.unsaved(), Vec::<String>::new());
    assert!(
        crate::control::drained::Drained::load(&state)
            .unwrap()
            .of("a")
            .is_some()
    );
    assert_eq!(
        crate::control::weights::Weights::load(&state)
            .unwrap()
            .of("b"),
        Some(7)
    );
}
