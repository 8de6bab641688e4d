//! Backends that say nothing any more while others answer.

use steer_common::abi::MemberCounters;

use super::*;

/// Has time pass, by 20 ms at a time, in which each member gets a connection with a request; who answers does so
/// by ten packets. Returns when the states of members changed, if they did.
pub(super) fn traffic(
    bench: &mut Bench,
    controller: &mut Controller<Fake>,
    answering: &[u16],
    steps: u64,
) -> Option<u64> {
    let before = controller.dataplane.states();
    (1..=steps).find_map(|step| {
        bench.now += Duration::from_millis(20);
        for id in 1..=before.len() as u16 {
            let counters: &mut MemberCounters = controller.dataplane.traffic.entry(id).or_default();
            counters.flows += 1;
            counters.requests += 1;
            let answers = if answering.contains(&id) { 10 } else { 0 };
            counters.answers += answers;
            counters.answer_bytes += answers * 1000;
        }
        controller.poll(bench.now).unwrap();
        (controller.dataplane.states() != before).then_some(step * 20)
    })
}

pub(super) fn start() -> (Bench, Controller<Fake>) {
    let mut bench = Bench::new();
    let names = ["a", "b", "c", "d"];
    let mut controller = bench.start(&names, Fake::new());
    for name in names {
        bench.up(&mut controller, name, 1);
    }
    assert_eq!(
        traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 100),
        None
    );
    (bench, controller)
}

#[test]
fn a_silent_backend_gets_no_new_flows_until_it_answers() {
    let (mut bench, mut controller) = start();
    let after = traffic(&mut bench, &mut controller, &[2, 3, 4], 50).unwrap();
    assert!((150..=250).contains(&after), "{after} ms");
    let states = [(1, Draining), (2, Up), (3, Up), (4, Up)];
    assert_eq!(controller.dataplane.states(), states);
    let status = controller.view().status(bench.now).unwrap();
    let said = status.backends[0].ejected_for.as_deref().unwrap();
    assert!(said.contains("silent"), "{said}");
    let why = controller.view().decisions("a").unwrap();
    let why = why
        .iter()
        .rfind(|decision| decision.what == "connections")
        .unwrap();
    assert!(why.because[0].contains("0 packets of answers"), "{why:?}");
    // Its probes go on, and change nothing.
    bench.probe(&mut controller, "a", Some(1));
    assert_eq!(controller.dataplane.states(), states);
    let back = traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 50).unwrap();
    assert!(back <= 40, "{back} ms");
    assert_eq!(
        traffic(&mut bench, &mut controller, &[1, 2, 3, 4], 50),
        None
    );
}

#[test]
fn where_all_are_silent_nobody_is_suspected() {
    let (mut bench, mut controller) = start();
    assert_eq!(traffic(&mut bench, &mut controller, &[], 500), None);
}

#[test]
fn with_one_left_that_answers_the_others_are_tried_all_the_same() {
    let (mut bench, mut controller) = start();
    for _ in 0..3 {
        traffic(&mut bench, &mut controller, &[4], 100);
    }
    // One of four is well: that is fewer than half.
    assert_eq!(
        controller.dataplane.states(),
        [(1, Up), (2, Up), (3, Up), (4, Up)]
    );
}
