//! Conclusions from an engine's pages and answers, with a simulated clock.

use super::*;
use crate::beacon::engine::{
    exposition,
    profile::{Engine, Profile},
    question::Schedule,
};

const PATIENCE: Timeouts = Timeouts {
    stall: Duration::from_secs(20),
    silence: Duration::from_secs(5),
    stale: Duration::from_secs(5),
};
const EVERY: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(100);

/// Reply to a question.
#[derive(Clone)]
enum Reply {
    /// An outcome after a number of seconds.
    After(f64, Outcome),
    /// No answer; the first byte on its connection arrived, or did not.
    Never { reached: bool },
}

fn answered(after: f64) -> Reply {
    Reply::After(after, Outcome::Answered)
}

/// An engine and its beacon, without sockets.
struct Bench {
    profile: Profile,
    state: State,
    schedule: Schedule,
    window: CounterDeltas,
    start: Instant,
    now: Instant,
    pending: Option<(Instant, Occasion)>,
    /// Seconds at which it was asked.
    asked: Vec<f64>,
    /// Seconds at which the verdict changed, with the new verdict.
    verdicts: Vec<(f64, Option<Trouble>)>,
}

impl Bench {
    fn new(engine: Engine) -> Self {
        let start = Instant::now();
        Self {
            profile: Profile::built_in(engine).unwrap(),
            state: State::new(PATIENCE, start),
            schedule: Schedule::new(Some(EVERY), start),
            window: CounterDeltas::default(),
            start,
            now: start,
            pending: None,
            asked: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    /// Runs until a second. `page` returns the page of a second, if it arrives then.
    fn run(
        &mut self,
        until: f64,
        page: impl Fn(u32) -> Option<String>,
        reply: impl Fn(f64) -> Reply,
    ) {
        while self.seconds() < until {
            let ticks = (self.now - self.start).as_millis() / 100;
            if ticks.is_multiple_of(10) {
                self.state.page_asked(self.now);
                if let Some(text) = page(u32::try_from(ticks / 10).unwrap()) {
                    let page = exposition::parse(&text, |name| self.profile.wants(name)).unwrap();
                    let reading = EngineSignals::from_page(&page, &self.profile);
                    let names_load = self.profile.names_load();
                    let state = &mut self.state;
                    state.reading(&mut self.window, reading, names_load, self.now);
                }
            }
            self.ask(&reply);
            let verdict = self.state.trouble(self.now).map(|(trouble, _)| trouble);
            let before = self.verdicts.last().and_then(|(_, trouble)| *trouble);
            if verdict != before {
                self.verdicts.push((self.seconds(), verdict));
            }
            self.now += TICK;
        }
    }

    fn ask(&mut self, reply: &impl Fn(f64) -> Reply) {
        let now = self.now;
        let Some((asked, occasion)) = self.pending else {
            if self.state.take_progress() {
                self.schedule.progressed();
            }
            let occasion = self.state.occasion(EVERY, now);
            if self.schedule.start(occasion, now, 0.0) {
                self.state.question_started(now);
                self.pending = Some((now, occasion));
                self.asked.push(self.seconds());
            }
            return;
        };
        let waited = (now - asked).as_secs_f64();
        let at = (asked - self.start).as_secs_f64();
        let outcome = match reply(at) {
            Reply::After(after, outcome) if waited >= after => outcome,
            other => {
                let reached = !matches!(other, Reply::Never { reached: false });
                match self.state.waiting(asked, reached, now) {
                    Waiting::Usual => return,
                    Waiting::Overdue => {
                        self.state.overdue();
                        return;
                    }
                    Waiting::Working => Outcome::Alive(String::new()),
                    Waiting::TimedOut => Outcome::TimedOut(String::new()),
                    Waiting::Unreached => Outcome::Unreached(String::new()),
                }
            }
        };
        if outcome.is_life() {
            let about_hint = occasion == Occasion::Hint;
            self.schedule.answered(about_hint, now);
        } else {
            self.schedule.failed(now);
        }
        let quiet_until = self.schedule.quiet_until();
        self.state.question_ended(&outcome, quiet_until, now);
        self.pending = None;
    }

    fn load(&self) -> Load {
        self.state.load(self.now)
    }

    fn hint(&self) -> Option<Hint> {
        self.load().hint.map(|(hint, _)| hint)
    }
}

fn vllm(running: u32, waiting: u32, kv: f64, tokens: u32) -> Option<String> {
    Some(format!(
        "vllm:num_requests_running{{engine=\"0\"}} {running}\n\
         vllm:num_requests_waiting{{engine=\"0\"}} {waiting}\n\
         vllm:kv_cache_usage_perc{{engine=\"0\"}} {kv}\n\
         vllm:generation_tokens_total{{engine=\"0\"}} {tokens}\n\
         vllm:prompt_tokens_total{{engine=\"0\"}} 10\n"
    ))
}

#[test]
fn gauges_that_stay_are_asked_about_and_never_a_verdict() {
    // Whatever the stuck value: nothing runs, and the gauges claim otherwise for ten minutes.
    for (running, waiting, kv) in [(3, 0, 0.02), (106, 15, 0.904), (0, 1, 0.0), (1, 0, 1.0)] {
        let mut bench = Bench::new(Engine::Vllm);
        let page = |second: u32| vllm(running, waiting, kv, second.min(5) * 100);
        bench.run(600.0, page, |_| answered(0.06));
        assert_eq!(bench.verdicts, [], "{running} {waiting}");
        assert_eq!(bench.load().running, Some(f64::from(running)));
        // From half of a stall on, at increasing intervals.
        let first = bench.asked[0];
        assert!((14.9..16.0).contains(&first), "{:?}", bench.asked);
        let gaps: Vec<f64> = bench
            .asked
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect();
        assert!(
            gaps.windows(2).all(|pair| pair[1] > pair[0] * 1.8),
            "{gaps:?}"
        );
        assert!(bench.asked.len() <= 7, "{:?}", bench.asked);
        assert_eq!(bench.hint(), None, "it was answered");
    }
}

#[test]
fn what_a_question_itself_gets_done_is_no_new_sign() {
    // The engine counts each question as a token.
    let mut bench = Bench::new(Engine::Vllm);
    let asked = std::cell::RefCell::new(0_u32);
    let page = |_| vllm(3, 0, 0.02, 500 + *asked.borrow());
    for second in 1..=600 {
        bench.run(f64::from(second), page, |_| answered(0.06));
        *asked.borrow_mut() = u32::try_from(bench.asked.len()).unwrap();
    }
    assert_eq!(bench.verdicts, []);
    assert!(bench.asked.len() <= 8, "{:?}", bench.asked);
}

#[test]
fn an_engine_that_hangs_with_work_is_found_by_its_question() {
    for reached in [false, true] {
        let mut bench = Bench::new(Engine::Vllm);
        let page = |second: u32| vllm(2, second, 0.5, second.min(30) * 50);
        bench.run(45.0, page, |_| Reply::Never { reached });
        assert_eq!(bench.verdicts, []);
        assert_eq!(bench.hint(), Some(Hint::SlowCompletion));
        assert_eq!(bench.load().no_signal, Some(NoSignal::Doubted));
        bench.run(120.0, page, |_| Reply::Never { reached });
        let (at, verdict) = bench.verdicts[0];
        assert_eq!(verdict, Some(Trouble::NoCompletion));
        // 20 s after its last progress; nobody has to wait for longer.
        assert!((49.0..52.0).contains(&at), "{at} {reached}");
        // It makes progress, and has not reached the question yet.
        let page = |second: u32| vllm(2, 0, 0.5, 1500 + second * 50);
        bench.run(140.0, page, |_| Reply::Never { reached: true });
        assert_eq!(bench.verdicts.last().unwrap().1, None);
        assert_eq!(bench.load().running, Some(2.0));
    }
}

#[test]
fn an_engine_that_is_stopped_as_a_whole_is_found_as_well() {
    let mut bench = Bench::new(Engine::Vllm);
    let page = |second: u32| vllm(2, 0, 0.5, second * 50).filter(|_| second < 30);
    bench.run(38.0, page, |_| Reply::Never { reached: false });
    assert_eq!(bench.verdicts, []);
    assert!(
        bench.asked.iter().any(|at| (34.0..36.0).contains(at)),
        "{:?}",
        bench.asked
    );
    assert!(bench.load().hint.is_some());
    bench.run(90.0, page, |_| Reply::Never { reached: false });
    let (at, verdict) = bench.verdicts[0];
    assert_eq!(verdict, Some(Trouble::NoCompletion));
    assert!((39.0..41.0).contains(&at), "{at}");
}

#[test]
fn a_long_prompt_that_fills_the_cache_is_progress() {
    let mut bench = Bench::new(Engine::Vllm);
    // A single request for two minutes, without a token meanwhile.
    let page = |second: u32| match second {
        0..2 => vllm(0, 0, 0.0, 5000),
        2..122 => vllm(1, 0, f64::from(second) / 200.0, 5000),
        _ => vllm(0, 0, 0.0, 5001),
    };
    bench.run(121.0, page, |_| Reply::Never { reached: true });
    assert_eq!((&bench.verdicts[..], bench.hint()), (&[][..], None));
    assert_eq!(bench.asked, [0.0; 0]);
    // An engine that shows nothing and answers when it is done: in time, if that is usual for it.
    let mut bench = Bench::new(Engine::Vllm);
    let page = |second: u32| match second {
        0..50 => vllm(1, 0, 0.1, second * 9),
        _ => vllm(1, 0, 0.1, 450),
    };
    bench.run(50.0, page, |_| answered(0.5));
    bench
        .state
        .record_answer_time(Duration::from_secs(9), bench.now);
    bench.run(85.0, page, |at| answered(85.0 - at));
    assert_eq!(bench.verdicts, []);
}

#[test]
fn a_slow_page_is_no_verdict_and_an_old_load_no_load() {
    let mut bench = Bench::new(Engine::Vllm);
    let fast = |second: u32| vllm(30, 0, 0.5, second * 1000);
    bench.run(10.0, fast, |_| answered(0.06));
    assert_eq!(bench.load().running, Some(30.0));
    // From now on each page takes 8 s, for two minutes; clients are answered throughout.
    let slow = |second: u32| fast(second).filter(|_| second.is_multiple_of(8));
    bench.run(13.9, slow, |_| answered(0.06));
    assert_eq!(
        bench.load().running,
        Some(30.0),
        "it is not older than it may be"
    );
    bench.run(15.9, slow, |_| answered(0.06));
    assert_eq!(bench.load().no_signal, Some(NoSignal::Stale));
    bench.run(130.0, slow, |_| answered(0.06));
    assert_eq!(bench.verdicts, []);
    assert!(bench.asked.len() <= 12, "{:?}", bench.asked);
    bench.run(133.0, fast, |_| answered(0.06));
    assert_eq!(bench.load().running, Some(30.0));
}

#[test]
fn an_idle_engine_has_to_fail_twice() {
    let mut bench = Bench::new(Engine::Vllm);
    let page = |_| vllm(0, 0, 0.0, 7);
    let error = || Outcome::Failed("status 500".to_owned());
    bench.run(35.0, page, |at| match at {
        ..32.0 => Reply::After(0.1, error()),
        _ => answered(0.1),
    });
    assert_eq!(
        (&bench.asked[..], bench.verdicts.len()),
        (&[30.0, 32.1][..], 0)
    );
    // Its gauges say idle, whatever arrives: only the two missing answers show the trouble.
    bench.run(130.0, page, |_| Reply::Never { reached: true });
    let (at, verdict) = bench.verdicts[0];
    assert_eq!(verdict, Some(Trouble::NoCompletion));
    assert!((83.0..90.0).contains(&at), "{at} {:?}", bench.asked);
    assert_eq!(bench.load().no_signal, Some(NoSignal::Doubted));
    bench.run(150.0, page, |_| answered(0.1));
    assert_eq!(bench.verdicts.last().unwrap().1, None);
}

#[test]
fn who_is_full_or_refuses_the_question_lives() {
    for outcome in [
        Outcome::Full("status 429".to_owned()),
        Outcome::Alive("status 401".to_owned()),
    ] {
        let mut bench = Bench::new(Engine::Vllm);
        let page = |_| vllm(4, 9, 0.9, 7);
        bench.run(300.0, page, |_| Reply::After(0.01, outcome.clone()));
        assert_eq!(bench.verdicts, []);
        bench.run(1000.0, page, |_| Reply::After(0.01, outcome.clone()));
        let told_full = bench.state.full.is_some();
        assert_eq!(told_full, matches!(outcome, Outcome::Full(_)));
    }
}

#[test]
fn one_slot_that_works_for_minutes_keeps_a_question_waiting() {
    let mut bench = Bench::new(Engine::LlamaCpp);
    let page = |second: u32| {
        // It stood still for 12 s once, which made the beacon ask.
        let steps = if (20..32).contains(&second) {
            20
        } else {
            second
        };
        let page = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 1\n";
        Some(format!("{page}llamacpp:n_decode_total {steps}\n"))
    };
    bench.run(300.0, page, |_| Reply::Never { reached: true });
    assert_eq!(bench.verdicts, []);
    assert!(!bench.asked.is_empty());
    // Counters of six digits hide its progress; the question shows it.
    let mut bench = Bench::new(Engine::LlamaCpp);
    let page = |_| {
        let page = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n";
        Some(format!("{page}llamacpp:n_decode_total 1.23457e+06\n"))
    };
    bench.run(200.0, page, |_| answered(4.0));
    assert_eq!(bench.verdicts, []);
    assert_eq!(bench.load().notes, [Note::CoarseCounters]);
    assert_eq!(bench.hint(), None);
}

#[test]
fn an_engine_that_takes_no_new_connections_is_found_though_it_works() {
    let mut bench = Bench::new(Engine::Vllm);
    let page = |second: u32| {
        let tokens = if (20..31).contains(&second) {
            20
        } else {
            second
        };
        vllm(2, 0, 0.5, tokens)
    };
    bench.run(60.0, page, |_| Reply::Never { reached: false });
    let (at, verdict) = bench.verdicts[0];
    assert_eq!(verdict, Some(Trouble::NoCompletion));
    assert!((50.0..55.0).contains(&at), "{at}");
}

#[test]
fn loading_and_sleep_are_no_hang_and_end_at_once() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut state = State::new(PATIENCE, start);
    state.page_asked(at(0));
    state.ready(false, at(1));
    let want = (Trouble::Loading, Duration::from_secs(59));
    assert_eq!(state.trouble(at(60)), Some(want));
    assert_eq!(state.occasion(EVERY, at(60)), Occasion::Nothing);
    state.ready(true, at(60));
    assert_eq!(state.trouble(at(60)), None);
    // Asleep, and no request wakes it.
    state.asleep(true, false, at(70));
    assert_eq!(
        state.trouble(at(71)),
        Some((Trouble::Asleep, Duration::from_secs(1)))
    );
    assert_eq!(state.occasion(EVERY, at(200)), Occasion::Nothing);
    state.ready(true, at(72));
    assert!(
        state.trouble(at(72)).is_some(),
        "health is not what wakes it"
    );
    state.asleep(false, false, at(73));
    assert_eq!(state.trouble(at(73)), None);
    // Asleep until the next request.
    state.asleep(true, true, at(80));
    assert_eq!(state.trouble(at(81)), None);
    assert_eq!(state.occasion(EVERY, at(200)), Occasion::Nothing);
    let load = state.load(at(81));
    assert_eq!((load.running, load.notes), (Some(0.0), vec![Note::Asleep]));
}

#[test]
fn what_cannot_be_read_any_more_is_old_and_then_unknown_but_never_idle() {
    let mut bench = Bench::new(Engine::Vllm);
    assert_eq!(bench.load().no_signal, Some(NoSignal::NotYet));
    bench.run(1.0, |_| vllm(2, 0, 0.5, 1), |_| answered(0.1));
    let (mut state, now) = (bench.state, bench.now);
    for why in [NoSignal::Unreachable, NoSignal::Malformed] {
        state.page_asked(now);
        state.mark_unreadable(why);
        let load = state.load(now + Duration::from_secs(9));
        assert_eq!(
            (load.no_signal, load.running, load.in_flight),
            (Some(why), None, None)
        );
        assert!(load.age > Some(9.0));
    }
    let later = now + Duration::from_secs(20);
    state.reading(&mut bench.window, EngineSignals::default(), true, later);
    assert_eq!(state.load(later).no_signal, Some(NoSignal::Renamed));
    assert_eq!(state.trouble(later), None);
}

/// Returns a page of eight ranks: one has a full cache and a queue, and `tokens` as its progress.
fn ranks(second: u32, tokens: u32) -> Option<String> {
    let mut page = String::new();
    for rank in 0..8 {
        let (running, waiting, kv, tokens) = match rank {
            0 => (60, 117 + second, 1.0, tokens),
            _ => (2, 0, 0.05, second * 100),
        };
        page += &format!(
            "vllm:num_requests_running{{engine=\"{rank}\"}} {running}\n\
             vllm:num_requests_waiting{{engine=\"{rank}\"}} {waiting}\n\
             vllm:kv_cache_usage_perc{{engine=\"{rank}\"}} {kv}\n\
             vllm:generation_tokens_total{{engine=\"{rank}\"}} {tokens}\n"
        );
    }
    Some(page)
}

#[test]
fn a_full_rank_is_named_and_the_mean_counts() {
    let mut bench = Bench::new(Engine::Vllm);
    bench.run(
        30.0,
        |second| ranks(second, second * 100),
        |_| answered(0.1),
    );
    let load = bench.load();
    assert!((load.kv_use.unwrap() - 1.35 / 8.0).abs() < 1e-9, "{load:?}");
    assert_eq!(load.running, Some(74.0));
    assert_eq!(load.notes, [Note::RankFull]);
    assert_eq!(bench.state.queueing_part(), 1.0 / 8.0);
    assert_eq!((&bench.verdicts[..], bench.hint()), (&[][..], None));
}

#[test]
fn a_rank_that_stands_still_costs_its_part_and_no_more() {
    let mut bench = Bench::new(Engine::Vllm);
    bench.run(60.0, |second| ranks(second, 700), |_| answered(0.1));
    let load = bench.load();
    assert_eq!(load.notes, [Note::RankFull, Note::RankStuck]);
    assert_eq!(bench.hint(), Some(Hint::RankStuck));
    assert_eq!(bench.state.stuck_ranks(bench.now), "0");
    assert_eq!(bench.verdicts, []);
    bench.state.load.capacity = Some(64.0);
    assert_eq!(bench.load().capacity, Some(56.0));
}

#[test]
fn a_restart_amid_a_question_is_no_verdict() {
    let mut bench = Bench::new(Engine::Vllm);
    let page = |second: u32| match second {
        0..20 => vllm(2, 0, 0.5, 900),
        20..25 => None,
        _ => vllm(0, 0, 0.0, 0),
    };
    // The connection breaks with the engine, which answers once it is back.
    bench.run(100.0, page, |at| match at {
        ..15.0 => Reply::After(10.0, Outcome::Failed("no answer: closed".to_owned())),
        _ => answered(0.1),
    });
    assert_eq!(bench.verdicts, []);
    assert_eq!(bench.load().running, Some(0.0));
}
