//! Commands of the operator: drains with a deadline, and weights.

use super::*;
use crate::control::{Drain, DrainStatus};

fn within(time: Duration) -> Option<Drain> {
    let until = Some(SystemTime::now() + time);
    Some(Drain { until })
}

fn drain_status(controller: &Controller<Fake>) -> Option<DrainStatus> {
    let status = controller.view().status(Instant::now()).unwrap();
    status.backends[0].drain.clone()
}

fn state(controller: &Controller<Fake>) -> String {
    drain_status(controller).unwrap().state
}

#[test]
fn a_drain_ends_open_flows_at_its_deadline_and_not_before() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    assert_eq!(drain_status(&controller), None);
    let minute = Duration::from_secs(60);
    controller
        .drain("a", within(minute), "test", bench.now)
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
    set_drain(&mut controller, "a", false, bench.now).unwrap();
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
        .drain("a", within(minute), "test", bench.now)
        .unwrap();
    let mut controller = bench.restart(&["a", "b"], &controller);
    controller.tick(bench.now).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Draining), (2, Up)]);
    controller.tick(bench.now + 2 * minute).unwrap();
    assert_eq!(controller.dataplane.states(), [(1, Down), (2, Up)]);

    let past = Some(Drain {
        until: Some(SystemTime::now() - minute),
    });
    let mut operator = controller.view().operator().clone();
    operator
        .drains
        .extend(past.map(|drain| ("b".to_owned(), drain)));
    let fake = controller.dataplane.clone();
    let mut controller = bench.start_with(&["a", "b"], fake, operator);
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
    set_drain(&mut controller, "a", true, bench.now).unwrap();
    let status = drain_status(&controller).unwrap();
    assert!(status.slots > 0, "{status:?}");
    assert_eq!(status.state, "draining");
    // The slots' open flows are over after the idle timeout, the remembered one is not.
    for seconds in [61, 75, 90] {
        controller
            .tick(bench.now + Duration::from_secs(seconds))
            .unwrap();
    }
    let status = drain_status(&controller).unwrap();
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
    let slots = controller
        .dataplane
        .slots(controller.site.tables[0].clone());
    let own = slots.iter().filter(|slot| slot.first == member).count();
    own as f64 / slots.len() as f64
}

#[test]
fn a_weight_stands_in_for_the_capacity_and_outlives_the_daemon() {
    let mut bench = Bench::new();
    let mut controller = bench.start(&["a", "b"], Fake::new());
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    controller.weigh("a", Some(3), "test", bench.now).unwrap();
    assert!((share(&controller, 1) - 0.75).abs() < 0.02);
    for wrong in [0, 1_000_001] {
        let said = controller.weigh("a", Some(wrong), "test", bench.now);
        assert!(matches!(said, Err(CommandError::Weight)), "{wrong}");
    }
    let nobody = controller.weigh("nobody", None, "test", bench.now);
    assert!(matches!(nobody, Err(CommandError::Unknown(_))));
    let mut controller = bench.restart(&["a", "b"], &controller);
    bench.up(&mut controller, "a", 1);
    bench.up(&mut controller, "b", 1);
    assert!((share(&controller, 1) - 0.75).abs() < 0.02);
    controller.weigh("a", None, "test", bench.now).unwrap();
    assert!((share(&controller, 1) - 0.5).abs() < 0.02);
}
