//! False alarms at random: no backend that serves is ejected.

use super::*;

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
