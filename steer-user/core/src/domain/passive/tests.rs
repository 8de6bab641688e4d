//! Ejections by what the data path saw.

use super::*;

fn counts(refused: u64, unanswered: u64, accepted: u64) -> Counts {
    Counts {
        refused,
        unanswered,
        accepted,
        ..Counts::default()
    }
}

fn observe(watch: &mut Watch, counts: Counts, now: Instant) -> Option<Verdict> {
    watch.observe(&counts, PeerTraffic::default(), now)
}

#[test]
fn connections_refused_in_a_row_take_a_backend_out() {
    let now = Instant::now();
    let mut watch = Watch::default();
    assert_eq!(observe(&mut watch, counts(1, 0, 0), now), None);
    assert_eq!(
        observe(&mut watch, counts(1, 0, 5), now),
        None,
        "it accepts others"
    );
    assert_eq!(observe(&mut watch, counts(1, 0, 0), now), None);
    let out = Verdict::Out(Reason::Refused, FIRST_EJECTION);
    assert_eq!(observe(&mut watch, counts(1, 0, 0), now), Some(out));
    assert_eq!(watch.ejected(), Some(Reason::Refused));
}

#[test]
fn it_is_tried_again_and_left_out_for_longer_each_time() {
    let mut now = Instant::now();
    let mut watch = Watch::default();
    let mut times = Vec::new();
    for _ in 0..9 {
        let Some(Verdict::Out(Reason::Unanswered, time)) =
            observe(&mut watch, counts(0, 3, 0), now)
        else {
            panic!("{watch:?}");
        };
        times.push(time.as_secs());
        assert_eq!(observe(&mut watch, counts(0, 9, 0), now + time / 2), None);
        now += time;
        assert_eq!(
            observe(&mut watch, counts(0, 0, 0), now),
            Some(Verdict::Again)
        );
    }
    assert_eq!(times, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    now += EJECTION_MEMORY;
    let out = Verdict::Out(Reason::Refused, FIRST_EJECTION);
    assert_eq!(observe(&mut watch, counts(2, 0, 0), now), Some(out));
}

#[test]
fn a_silent_one_is_back_once_it_answers_and_tried_after_a_while() {
    let mut now = Instant::now();
    let mut watch = Watch::default();
    let around = PeerTraffic {
        direct: false,
        others: true,
        well: true,
        ..PeerTraffic::default()
    };
    let mut step = |watch: &mut Watch, asked, answers| {
        now += Duration::from_millis(20);
        let traffic = Traffic {
            flows: asked,
            requests: asked,
            answers,
        };
        let counts = Counts {
            traffic,
            ..Counts::default()
        };
        watch.observe(&counts, around, now)
    };
    let mut silent = |watch: &mut Watch, time: u64| {
        for _ in 0..50 {
            assert_eq!(step(watch, 1, 9), None);
        }
        let out = (0..200).find_map(|_| step(watch, 1, 0));
        let time = Duration::from_secs(time);
        assert_eq!(out, Some(Verdict::Out(Reason::Silent, time)));
    };
    silent(&mut watch, 5);
    let mut answering = watch;
    now += Duration::from_millis(500);
    assert_eq!(observe(&mut answering, counts(0, 0, 0), now), None);
    let answer = Counts {
        traffic: Traffic {
            answers: 1,
            ..Traffic::default()
        },
        ..Counts::default()
    };
    let verdict = answering.observe(&answer, around, now);
    assert_eq!(
        (verdict, answering.ejected()),
        (Some(Verdict::Answers), None)
    );
    now += Duration::from_secs(5);
    let verdict = observe(&mut watch, counts(0, 0, 0), now);
    assert_eq!(verdict, Some(Verdict::Again));
    assert!(!watch.is_waiting());
}

#[test]
fn counts_that_began_anew_say_nothing() {
    let before = counts(5, 0, 7);
    assert_eq!(counts(6, 0, 9).since(&before), Some(counts(1, 0, 2)));
    assert_eq!(counts(0, 0, 9).since(&before), None);
    assert_eq!(counts(1, 2, 3).plus(&counts(1, 1, 1)), counts(2, 3, 4));
}
