//! Refused connections, seen in packets and tried by the node.

use super::*;

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
