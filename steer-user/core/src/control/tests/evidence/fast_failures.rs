//! Backends that fail fast, and what looks like it.

use super::*;

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
