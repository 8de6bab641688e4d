//! Conclusions of a beacon about an engine over real sockets.

use super::{fake::*, *};
use crate::probe::Hint;

/// Waits until the watch satisfies a condition.
async fn until(watch: &EngineWatch, what: &str, mut wanted: impl FnMut(&EngineWatch) -> bool) {
    let mut state = watch.state.subscribe();
    let waiting = async {
        while !wanted(watch) {
            // Some conditions become true by time alone.
            drop(timeout(Duration::from_millis(20), state.changed()).await);
        }
    };
    let waited = timeout(Duration::from_secs(60), waiting).await;
    let now = Instant::now();
    assert!(
        waited.is_ok(),
        "never {what}: {:?} {:?}",
        watch.load(now),
        watch.trouble(now)
    );
}

fn trouble(watch: &EngineWatch) -> Option<Trouble> {
    watch.trouble(Instant::now()).map(|(trouble, _)| trouble)
}

fn hint(watch: &EngineWatch) -> Option<Hint> {
    watch.load(Instant::now()).hint.map(|(hint, _)| hint)
}

const BUSY: &str =
    "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 0.5\n";
const IDLE: &str = "vllm:num_requests_running 0\nvllm:generation_tokens_total 1\n";

fn busy(tokens: u32) -> Script {
    Script::Page(format!("{BUSY}vllm:generation_tokens_total {tokens}\n"))
}

#[tokio::test]
async fn load_is_read_and_told_with_its_limits() {
    let fake = Fake::start(BUSY).await;
    let watch = fake.watch(Engine::Vllm, |config| config.capacity = Some(8.0));
    assert_eq!(watch.load(Instant::now()).no_signal, Some(NoSignal::NotYet));
    until(&watch, "read", |w| {
        w.load(Instant::now()).running == Some(2.0)
    })
    .await;
    let load = watch.load(Instant::now());
    assert_eq!((load.waiting, load.in_flight), (Some(1.0), Some(3.0)));
    assert_eq!((load.capacity, load.limit), (Some(8.0), Some(8.0)));
    assert!(load.age.unwrap() < 20.0);
    assert_eq!(load.notes, []);
    // The limit of the queue is unknown: one waiting request is too many.
    let watch = fake.watch(Engine::Vllm, |_| {});
    until(&watch, "read", |w| w.load(Instant::now()).running.is_some()).await;
    let load = watch.load(Instant::now());
    assert_eq!((load.capacity, load.limit), (None, Some(1.0)));
    assert_eq!(load.notes, [Note::NoQueueLimit]);
}

#[tokio::test]
async fn limits_are_read_where_the_engine_tells_them_and_again_after_a_restart() {
    let page = |tokens: u32| {
        let page = "sglang:num_running_reqs 1\nsglang:num_queue_reqs 0\n";
        Script::Page(format!("{page}sglang:generation_tokens_total {tokens}\n"))
    };
    let fake = Fake::start("").await;
    fake.says("/metrics", page(10));
    let told = |n: u32| {
        let states = format!("[{{\"effective_max_running_requests_per_dp\": {n}}}]");
        Script::Page(format!(
            "{{\"max_running_requests\": null, \"internal_states\": {states}}}"
        ))
    };
    // Older versions have it at the other path.
    fake.says("/get_server_info", told(128));
    let watch = fake.watch(Engine::Sglang, |_| {});
    until(&watch, "128", |w| {
        w.load(Instant::now()).capacity == Some(128.0)
    })
    .await;
    let looks = fake.asked("/metrics").len();
    until(&watch, "looks", |_| {
        fake.asked("/metrics").len() > looks + 5
    })
    .await;
    assert_eq!(fake.asked("/get_server_info").len(), 1);
    fake.says("/server_info", told(64));
    fake.says("/metrics", page(1));
    until(&watch, "64", |w| {
        w.load(Instant::now()).capacity == Some(64.0)
    })
    .await;
}

#[tokio::test]
async fn what_is_no_page_is_no_signal_with_a_reason() {
    let fake = Fake::start(BUSY).await;
    let watch = fake.watch(Engine::Vllm, |_| {});
    let no_signal = |w: &EngineWatch| {
        // Later than any signal is valid.
        let load = w.load(Instant::now() + Duration::from_secs(60));
        assert_eq!((load.running, load.kv_use), (None, None));
        load.no_signal
    };
    let text = |text: &str| Script::Page(text.to_owned());
    for (script, want) in [
        (Script::Status(503), NoSignal::Unreachable),
        (Script::Cut, NoSignal::Malformed),
        (Script::Close, NoSignal::Unreachable),
        (
            text("<html>\n<p>vllm:num_requests_running 1\n"),
            NoSignal::Malformed,
        ),
        (
            text("\u{1f}\u{8b}vllm:num_requests_running 2\n"),
            NoSignal::Malformed,
        ),
        (text("{\"running\": 2}\n"), NoSignal::Malformed),
        (text("vllm:requests_active 0\n"), NoSignal::Renamed),
        (Script::Huge(100), NoSignal::Malformed),
        (text("vllm:num_requests_running NaN\n"), NoSignal::Renamed),
        (busy(1), NoSignal::Stale),
    ] {
        let what = format!("{script:?}");
        fake.says("/metrics", script);
        until(&watch, &what, |w| no_signal(w) == Some(want)).await;
        assert_eq!(watch.trouble(Instant::now()), None);
    }
}

#[tokio::test]
async fn a_page_behind_a_slash_or_without_a_last_line_end_is_read() {
    let fake = Fake::start(BUSY).await;
    let watch = fake.watch(Engine::Vllm, |_| {});
    let running = |w: &EngineWatch| w.load(Instant::now()).running;
    fake.says(
        "/metrics/",
        Script::Page("vllm:num_requests_running 7\n".to_owned()),
    );
    fake.says("/metrics", Script::Moved);
    until(&watch, "moved", |w| running(w) == Some(7.0)).await;
    fake.says(
        "/metrics",
        Script::Page("\u{feff}vllm:num_requests_running 8".to_owned()),
    );
    until(&watch, "no line end", |w| running(w) == Some(8.0)).await;
}

#[tokio::test]
async fn work_without_progress_is_asked_about_on_a_connection_of_its_own() {
    let fake = Fake::start("").await;
    fake.says("/metrics", busy(1));
    // The gauge stays, and the engine answers: no verdict, however often it is asked.
    let watch = fake.watch(Engine::Vllm, |config| {
        config.stall = Duration::from_millis(400)
    });
    until(&watch, "asked", |_| {
        !fake.asked("/v1/completions").is_empty()
    })
    .await;
    let looks = fake.asked("/metrics").len();
    until(&watch, "looks", |w| {
        assert_eq!(trouble(w), None);
        fake.asked("/metrics").len() > looks + 40
    })
    .await;
    assert_eq!(
        (hint(&watch), watch.load(Instant::now()).running),
        (None, Some(2.0))
    );
    let page = fake.asked("/metrics")[0];
    assert!(!fake.asked("/v1/completions").contains(&page));

    // Here it does not answer, which proves that it hangs. Then it recovers.
    fake.says("/v1/completions", Script::Silence);
    let watch = fake.watch(Engine::Vllm, |config| {
        config.stall = Duration::from_millis(400)
    });
    until(&watch, "hung", |w| {
        trouble(w) == Some(Trouble::NoCompletion)
    })
    .await;
    assert_eq!(
        watch.load(Instant::now()).running,
        None,
        "nobody takes it for idle"
    );
    let mut tokens = 1;
    until(&watch, "back", |w| {
        tokens += 1;
        fake.says("/metrics", busy(tokens));
        trouble(w).is_none()
    })
    .await;
}

#[tokio::test]
async fn who_begins_to_answer_lives() {
    for script in [
        Script::Begun("data: {\"choices\":[]}\n\n".to_owned()),
        Script::Busy(503),
        Script::Status(429),
        Script::Status(401),
        Script::Page("garbage".to_owned()),
    ] {
        let fake = Fake::start("").await;
        fake.says("/metrics", busy(1));
        fake.says("/v1/completions", script.clone());
        let watch = fake.watch(Engine::Vllm, |config| {
            config.stall = Duration::from_millis(400)
        });
        until(&watch, "asked", |_| {
            !fake.asked("/v1/completions").is_empty()
        })
        .await;
        let looks = fake.asked("/metrics").len();
        until(&watch, "looks", |w| {
            assert_eq!(trouble(w), None, "{script:?}");
            fake.asked("/metrics").len() > looks + 50
        })
        .await;
    }
}

#[tokio::test]
async fn a_page_that_does_not_come_is_asked_about() {
    let fake = Fake::start("").await;
    fake.says("/metrics", busy(1));
    let slow = |config: &mut EngineConfig| {
        config.silence = Duration::from_millis(200);
        config.stall = Duration::from_millis(400);
    };
    // Byte by byte for seconds; the engine answers meanwhile.
    let watch = fake.watch(Engine::Vllm, slow);
    until(&watch, "read", |w| w.load(Instant::now()).running.is_some()).await;
    let Script::Page(page) = busy(2) else {
        unreachable!()
    };
    fake.says("/metrics", Script::Trickle(page));
    until(&watch, "asked", |_| {
        !fake.asked("/v1/completions").is_empty()
    })
    .await;
    assert_eq!(trouble(&watch), None);
    fake.says("/metrics", busy(3));
    until(&watch, "read", |w| {
        w.load(Instant::now()).no_signal.is_none()
    })
    .await;
    assert_eq!(trouble(&watch), None);
    // Neither of them arrives.
    fake.says("/metrics", Script::Silence);
    fake.says("/v1/completions", Script::Silence);
    let watch = fake.watch(Engine::Vllm, slow);
    until(&watch, "a hint", |w| hint(w).is_some()).await;
    until(&watch, "hung", |w| {
        trouble(w) == Some(Trouble::NoCompletion)
    })
    .await;
}

#[tokio::test]
async fn an_idle_engine_has_to_fail_twice_and_comes_back_at_once() {
    let fake = Fake::start(IDLE).await;
    fake.says("/v1/completions", Script::Status(500));
    let every = Duration::from_millis(200);
    let watch = fake.watch(Engine::Vllm, |config| config.completion = Some(every));
    until(&watch, "down", |w| {
        trouble(w) == Some(Trouble::NoCompletion)
    })
    .await;
    assert!(fake.asked("/v1/completions").len() >= 2);
    let load = watch.load(Instant::now());
    assert_eq!(
        (load.running, load.no_signal),
        (None, Some(NoSignal::Doubted))
    );
    fake.says(
        "/v1/completions",
        Script::Page("{\"choices\":[]}".to_owned()),
    );
    until(&watch, "back", |w| trouble(w).is_none()).await;
    assert_eq!(watch.load(Instant::now()).running, Some(0.0));
    // An engine with progress is left alone.
    let fake = Fake::start("").await;
    fake.says("/metrics", busy(1));
    let watch = fake.watch(Engine::Vllm, |config| config.completion = Some(every));
    until(&watch, "looks", |_| fake.asked("/metrics").len() > 40).await;
    assert!(fake.asked("/v1/completions").is_empty());
    drop(watch);
    // And so is one for which questions are disabled.
    let fake = Fake::start(IDLE).await;
    let watch = fake.watch(Engine::Vllm, |config| config.completion = None);
    until(&watch, "looks", |_| fake.asked("/metrics").len() > 40).await;
    assert!(fake.asked("/v1/completions").is_empty());
}

#[tokio::test]
async fn an_engine_that_loads_is_not_ready_and_not_asked() {
    let fake = Fake::start("").await;
    for path in ["/metrics", "/health", "/v1/completions"] {
        fake.says(path, Script::Status(503));
    }
    let every = Duration::from_millis(100);
    let watch = fake.watch(Engine::Vllm, |config| config.completion = Some(every));
    until(&watch, "loading", |w| trouble(w) == Some(Trouble::Loading)).await;
    until(&watch, "looks", |_| fake.asked("/health").len() > 10).await;
    assert!(fake.asked("/v1/completions").is_empty());
    fake.says("/metrics", Script::Page(IDLE.to_owned()));
    fake.says("/v1/completions", Script::Page("{}".to_owned()));
    fake.says("/health", Script::Page(String::new()));
    until(&watch, "ready", |w| trouble(w).is_none()).await;
    until(&watch, "read", |w| {
        w.load(Instant::now()).running == Some(0.0)
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_sleeps_is_not_woken() {
    let fake = Fake::start("llamacpp:requests_processing 0\nllamacpp:n_decode_total 1\n").await;
    let props =
        |sleeps: bool| Script::Page(format!("{{\"is_sleeping\": {sleeps}, \"total_slots\": 4}}"));
    fake.says("/props", props(true));
    let every = Duration::from_millis(100);
    let watch = fake.watch(Engine::LlamaCpp, |config| config.completion = Some(every));
    let asleep = |w: &EngineWatch| w.load(Instant::now()).notes.contains(&Note::Asleep);
    until(&watch, "asleep", asleep).await;
    until(&watch, "looks", |_| fake.asked("/props").len() > 20).await;
    assert_eq!((trouble(&watch), asleep(&watch)), (None, true));
    for path in ["/metrics", "/v1/completions"] {
        assert!(fake.asked(path).is_empty(), "{path}");
    }
    fake.says("/props", props(false));
    until(&watch, "awake", |w| !asleep(w)).await;
    until(&watch, "asked", |_| {
        !fake.asked("/v1/completions").is_empty()
    })
    .await;
    // An engine that no request wakes gets none.
    let page = "vllm:num_requests_running 0\nvllm:generation_tokens_total 1\n";
    let state = "vllm:engine_sleep_state{sleep_state=\"awake\"}";
    let fake = Fake::start(&format!("{page}{state} 0\n")).await;
    let watch = fake.watch(Engine::Vllm, |config| config.completion = Some(every));
    until(&watch, "asleep", |w| trouble(w) == Some(Trouble::Asleep)).await;
    fake.says("/metrics", Script::Page(format!("{page}{state} 1\n")));
    until(&watch, "awake", |w| trouble(w).is_none()).await;
}

#[tokio::test]
async fn an_engine_that_answers_old_connections_only_is_found() {
    let fake = Fake::start("").await;
    fake.says("/health", Script::Page(String::new()));
    fake.says("/metrics", busy(1));
    let every = Duration::from_millis(300);
    let watch = fake.watch(Engine::Vllm, |config| {
        config.stall = Duration::from_millis(500);
        config.completion = Some(every);
    });
    until(&watch, "read", |w| w.load(Instant::now()).running.is_some()).await;
    fake.stops_accepting();
    // It makes progress for clients it accepted before.
    let mut tokens = 1;
    until(&watch, "found", |w| {
        if hint(w).is_none() {
            tokens += 1;
        } else {
            tokens += 2;
        }
        fake.says("/metrics", busy(tokens / 64));
        trouble(w) == Some(Trouble::NoCompletion)
    })
    .await;
}
