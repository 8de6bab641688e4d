//! Pages of all engines, and an engine that is made up over a real socket.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

macro_rules! page {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/engine/pages/", $name))
    };
}

struct Case {
    engine: Engine,
    page: &'static str,
    running: f64,
    waiting: f64,
    capacity: Option<f64>,
    kv_use: Option<f64>,
    tokens: Option<f64>,
    /// Means: seconds to the first token, and between tokens.
    seconds: (Option<f64>, Option<f64>),
    missing: &'static [&'static str],
}

const CASES: [Case; 10] = [
    Case {
        engine: Engine::Vllm,
        page: page!("vllm-0.11.txt"),
        running: 12.0,
        waiting: 3.0,
        capacity: None,
        kv_use: Some(0.25),
        tokens: Some(20480.0),
        seconds: (Some(0.15), Some(300.0 / 20380.0)),
        missing: &[],
    },
    Case {
        engine: Engine::Vllm,
        page: page!("vllm-0.6.txt"),
        running: 4.0,
        waiting: 1.0,
        capacity: None,
        kv_use: Some(0.75),
        tokens: Some(50.0),
        seconds: (Some(0.3), Some(1.0 / 45.0)),
        missing: &[],
    },
    Case {
        engine: Engine::Vllm,
        page: page!("vllm-0.32.txt"),
        running: 3.0,
        waiting: 21.0,
        capacity: None,
        kv_use: Some(0.888_888_888_888_888_8),
        tokens: Some(35770.0),
        seconds: (
            Some(174.179_531_097_412_1 / 42.0),
            Some(128.081_815_842_006_1 / 35728.0),
        ),
        missing: &[],
    },
    Case {
        engine: Engine::Vllm,
        page: page!("vllm-0.32-idle.txt"),
        running: 0.0,
        waiting: 0.0,
        capacity: None,
        kv_use: Some(0.0),
        tokens: Some(0.0),
        seconds: (None, None),
        missing: &[],
    },
    Case {
        engine: Engine::Sglang,
        page: page!("sglang-0.5.txt"),
        running: 7.0,
        waiting: 2.0,
        capacity: None,
        kv_use: Some(0.5),
        tokens: Some(4096.0),
        seconds: (Some(0.2), Some(0.01)),
        missing: &[],
    },
    Case {
        engine: Engine::Tgi,
        page: page!("tgi-3.txt"),
        running: 6.0,
        waiting: 5.0,
        capacity: None,
        kv_use: None,
        tokens: Some(11000.0),
        seconds: (None, Some(0.02)),
        missing: &[],
    },
    Case {
        engine: Engine::Triton,
        page: page!("triton-24.txt"),
        running: 9.0,
        waiting: 4.0,
        capacity: Some(512.0),
        kv_use: Some(0.4),
        tokens: None,
        seconds: (Some(0.2), None),
        missing: &[],
    },
    Case {
        engine: Engine::TrtllmServe,
        page: page!("trtllm-serve-1.txt"),
        running: 5.0,
        waiting: 0.0,
        capacity: Some(2048.0),
        kv_use: Some(0.125),
        tokens: Some(320.0),
        seconds: (Some(0.07), Some(0.01)),
        missing: &[],
    },
    Case {
        engine: Engine::LlamaCpp,
        page: page!("llama.cpp-2026.txt"),
        running: 0.0,
        waiting: 0.0,
        capacity: None,
        kv_use: None,
        tokens: Some(766.0),
        seconds: (None, None),
        missing: &["kv_use"],
    },
    Case {
        engine: Engine::LlamaCpp,
        page: page!("llama.cpp-2024.txt"),
        running: 3.0,
        waiting: 1.0,
        capacity: None,
        kv_use: Some(0.42),
        tokens: Some(70.0),
        seconds: (None, None),
        missing: &[],
    },
];

fn read(engine: Engine, page: &str) -> Reading {
    let profile = Profile::of(engine).unwrap();
    let series = page::parse(page, |name| profile.wants(name)).unwrap();
    Reading::of(&series, &profile)
}

#[test]
fn every_engine_is_read_in_its_versions() {
    let near = |got: Option<f64>, want: Option<f64>| match (got, want) {
        (Some(got), Some(want)) => (got - want).abs() < 1e-12,
        (got, want) => got == want,
    };
    for case in CASES {
        let mut lines = case.page.lines();
        for word in ["# engine: ", "# version: ", "# source: "] {
            assert!(lines.next().unwrap().starts_with(word), "{word}");
        }
        let got = read(case.engine, case.page);
        let name = case.page.lines().take(2).collect::<Vec<_>>().join(" ");
        assert_eq!(got.running, Some(case.running), "{name}");
        assert_eq!(got.waiting, Some(case.waiting), "{name}");
        assert_eq!(got.capacity, case.capacity, "{name}");
        assert_eq!(got.kv_use, case.kv_use, "{name}");
        assert_eq!(got.tokens, case.tokens, "{name}");
        let mean = |h: &Option<read::Histogram>| h.as_ref().and_then(read::Histogram::mean);
        assert!(
            near(mean(&got.first_token), case.seconds.0),
            "{name}: {got:?}"
        );
        assert!(
            near(mean(&got.inter_token), case.seconds.1),
            "{name}: {got:?}"
        );
        assert!(!got.progress.is_empty(), "{name}");
        assert_eq!(got.missing, case.missing, "{name}");
        assert_eq!(got.refused, [""; 0], "{name}");
    }
}

#[test]
fn all_that_the_profile_reads_is_on_a_real_page_of_vllm() {
    let got = read(Engine::Vllm, page!("vllm-0.32.txt"));
    assert_eq!(got.prompt_tokens, Some(873.0));
    assert_eq!(got.preemptions, Some(2.0));
    // Tokens, prompts' tokens and steps; then requests that ended, by reason: of these `length` only.
    let progress = [35770.0, 873.0, 11015.0, 0.0, 38.0, 0.0, 0.0, 0.0];
    assert_eq!(got.progress, progress);
    for (histogram, count) in [(got.first_token, 42.0), (got.inter_token, 35728.0)] {
        let histogram = histogram.unwrap();
        assert_eq!(histogram.count, count);
        assert_eq!(histogram.buckets.last(), Some(&(f64::INFINITY, count)));
    }
    let idle = read(Engine::Vllm, page!("vllm-0.32-idle.txt"));
    assert_eq!(
        (idle.prompt_tokens, idle.preemptions),
        (Some(0.0), Some(0.0))
    );
    assert_eq!(idle.progress, [0.0; 8]);
}

#[test]
fn a_page_of_another_engine_says_nothing() {
    for case in CASES {
        for engine in [Engine::Vllm, Engine::Sglang, Engine::Tgi, Engine::LlamaCpp] {
            let got = read(engine, case.page);
            assert_eq!(got.has_load(), engine == case.engine);
            let profile = Profile::of(engine).unwrap();
            let complaint = complaints(&profile, &got);
            let renamed = complaint.contains("was the engine upgraded");
            assert_eq!(renamed, engine != case.engine, "{complaint}");
        }
    }
}

#[test]
fn every_cut_of_a_page_is_refused_or_says_less() {
    let whole = read(Engine::Vllm, CASES[0].page);
    let profile = Profile::of(Engine::Vllm).unwrap();
    for cut in 0..CASES[0].page.len() {
        let Ok(series) = page::parse(&CASES[0].page[..cut], |name| profile.wants(name)) else {
            continue;
        };
        let got = Reading::of(&series, &profile);
        for (got, whole) in [(got.running, whole.running), (got.tokens, whole.tokens)] {
            assert!(got.is_none() || got == whole, "{cut}");
        }
    }
}

/// What the engine that is made up does.
#[derive(Clone, Debug)]
enum Script {
    Page(String),
    Status(u16),
    Cut,
    Silence,
}

struct Fake {
    address: SocketAddr,
    metrics: Arc<Mutex<Script>>,
    completion: Arc<Mutex<Script>>,
    completions: watch::Receiver<u32>,
}

impl Fake {
    async fn start(page: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Mutex::new(Script::Page(page.to_owned())));
        let completion = Arc::new(Mutex::new(Script::Page("{}".to_owned())));
        let (count, completions) = watch::channel(0);
        let scripts = (metrics.clone(), completion.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (metrics, completion) = scripts.clone();
                let count = count.clone();
                tokio::spawn(async move {
                    let mut held = Vec::new();
                    loop {
                        let mut buffer = [0; 4096];
                        match stream.read(&mut buffer).await {
                            Ok(n) if n > 0 => held.extend_from_slice(&buffer[..n]),
                            _ => return,
                        }
                        let text = String::from_utf8_lossy(&held).into_owned();
                        let Some(end) = text.find("\r\n\r\n") else {
                            continue;
                        };
                        let length = text
                            .lines()
                            .find_map(|line| line.strip_prefix("content-length: "));
                        let length: usize = length.map_or(0, |l| l.parse().unwrap());
                        if held.len() < end + 4 + length {
                            continue;
                        }
                        held.clear();
                        let script = if text.starts_with("POST") {
                            count.send_modify(|n| *n += 1);
                            completion.lock().unwrap().clone()
                        } else {
                            metrics.lock().unwrap().clone()
                        };
                        let (status, body, more) = match script {
                            Script::Page(body) => (200, body, 0),
                            Script::Status(status) => (status, String::new(), 0),
                            Script::Cut => (200, "a 1\n".to_owned(), 100),
                            Script::Silence => std::future::pending().await,
                        };
                        let head = format!(
                            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n",
                            body.len() + more
                        );
                        stream.write_all((head + &body).as_bytes()).await.unwrap();
                        if more > 0 {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            metrics,
            completion,
            completions,
        }
    }

    fn says(&self, script: Script) {
        *self.metrics.lock().unwrap() = script;
    }

    fn watch(&self, adapt: impl FnOnce(&mut EngineConfig)) -> Watch {
        let mut config = EngineConfig {
            profile: Profile::of(Engine::Vllm).unwrap(),
            metrics: self.address,
            api: self.address,
            key: None,
            every: Duration::from_millis(20),
            stall: Duration::from_secs(3600),
            silence: Duration::from_secs(3600),
            completion: None,
            capacity: None,
            limit: None,
        };
        config.profile.completion.as_mut().unwrap().models = None;
        adapt(&mut config);
        Watch::start(config)
    }
}

/// Waits for what the watch is to say.
async fn until(watch: &Watch, mut wanted: impl FnMut(&Watch) -> bool) {
    let mut state = watch.state.subscribe();
    let waiting = async {
        while !wanted(watch) {
            // Some of it comes by time alone.
            drop(timeout(Duration::from_millis(20), state.changed()).await);
        }
    };
    timeout(Duration::from_secs(20), waiting).await.unwrap();
}

const BUSY: &str =
    "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 0.5\n";

fn busy(tokens: u32) -> Script {
    Script::Page(format!("{BUSY}vllm:generation_tokens_total {tokens}\n"))
}

#[tokio::test]
async fn load_is_read_and_told_with_its_limits() {
    let fake = Fake::start(BUSY).await;
    let watch = fake.watch(|config| config.capacity = Some(8.0));
    assert_eq!(watch.load(Instant::now()).no_signal, Some(NoSignal::NotYet));
    until(&watch, |w| w.load(Instant::now()).running == Some(2.0)).await;
    let load = watch.load(Instant::now());
    assert_eq!((load.waiting, load.in_flight), (Some(1.0), Some(3.0)));
    assert_eq!((load.capacity, load.limit), (Some(8.0), Some(8.0)));
    assert!(load.age.unwrap() < 20.0);
}

#[tokio::test]
async fn what_is_no_page_is_no_signal_with_a_reason() {
    let fake = Fake::start(BUSY).await;
    let watch = fake.watch(|_| {});
    let no_signal = |w: &Watch| {
        // Later than any signal lasts.
        let load = w.load(Instant::now() + Duration::from_secs(60));
        assert_eq!((load.running, load.kv_use), (None, None));
        assert!(load.age.unwrap() > 50.0);
        load.no_signal
    };
    for (script, want) in [
        (Script::Status(503), NoSignal::Unreachable),
        (Script::Cut, NoSignal::Malformed),
        (Script::Page("<html>".to_owned()), NoSignal::Malformed),
        (
            Script::Page("vllm:num_requests_running 2".to_owned()),
            NoSignal::Malformed,
        ),
        (
            Script::Page("vllm:requests_active 0\n".to_owned()),
            NoSignal::Renamed,
        ),
        (
            Script::Page("vllm:num_requests_running NaN\n".to_owned()),
            NoSignal::Renamed,
        ),
        (busy(1), NoSignal::Stale),
    ] {
        fake.says(script);
        until(&watch, |w| no_signal(w) == Some(want)).await;
        assert_eq!(watch.trouble(Instant::now()), None);
    }
}

#[tokio::test]
async fn work_without_progress_is_trouble_until_it_goes_on() {
    let fake = Fake::start("").await;
    fake.says(busy(1));
    let watch = fake.watch(|config| config.stall = Duration::from_millis(200));
    until(&watch, |w| {
        matches!(w.trouble(Instant::now()), Some((Trouble::NoProgress, _)))
    })
    .await;
    // The load is still told: nobody takes it for idle.
    assert_eq!(watch.load(Instant::now()).running, Some(2.0));
    fake.says(busy(2));
    until(&watch, |w| w.trouble(Instant::now()).is_none()).await;
}

#[tokio::test]
async fn an_engine_that_says_nothing_is_silent_and_found_again() {
    let fake = Fake::start(BUSY).await;
    let watch = fake.watch(|config| config.silence = Duration::from_millis(200));
    until(&watch, |w| w.load(Instant::now()).running.is_some()).await;
    fake.says(Script::Silence);
    until(&watch, |w| {
        matches!(w.trouble(Instant::now()), Some((Trouble::Silent, _)))
    })
    .await;
    fake.says(busy(1));
    until(&watch, |w| w.trouble(Instant::now()).is_none()).await;
}

#[tokio::test]
async fn an_idle_engine_is_asked_for_a_token_and_a_busy_one_is_not() {
    let fake = Fake::start("vllm:num_requests_running 0\nvllm:generation_tokens_total 1\n").await;
    let ask = |config: &mut EngineConfig| config.completion = Some(Duration::from_millis(40));
    let watch = fake.watch(ask);
    let mut completions = fake.completions.clone();
    let several = |n: &u32| *n >= 3;
    let asked = completions.wait_for(several);
    timeout(Duration::from_secs(20), asked)
        .await
        .unwrap()
        .unwrap();

    for script in [Script::Status(500), Script::Page("no".to_owned())] {
        *fake.completion.lock().unwrap() = script;
        until(&watch, |w| {
            matches!(w.trouble(Instant::now()), Some((Trouble::NoCompletion, _)))
        })
        .await;
        let load = watch.load(Instant::now());
        assert_eq!(
            (load.running, load.no_signal),
            (None, Some(NoSignal::Doubted))
        );
        *fake.completion.lock().unwrap() = Script::Page("{}".to_owned());
        until(&watch, |w| w.trouble(Instant::now()).is_none()).await;
        assert_eq!(watch.load(Instant::now()).running, Some(0.0));
    }
    // Whoever asked for nothing that can be had learns nothing of the engine.
    *fake.completion.lock().unwrap() = Script::Status(404);
    let seen = *fake.completions.borrow();
    completions.wait_for(|n| *n > seen + 3).await.unwrap();
    assert_eq!(watch.trouble(Instant::now()), None);

    fake.says(busy(1));
    until(&watch, |w| w.load(Instant::now()).running == Some(2.0)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let seen = *fake.completions.borrow();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(*fake.completions.borrow(), seen);
}

#[tokio::test]
async fn an_engine_that_owes_a_completion_tells_no_load() {
    let fake = Fake::start("vllm:num_requests_running 0\nvllm:generation_tokens_total 1\n").await;
    *fake.completion.lock().unwrap() = Script::Silence;
    let watch = fake.watch(|config| config.completion = Some(Duration::from_millis(40)));
    let doubted = until(&watch, |w| {
        w.load(Instant::now()).no_signal == Some(NoSignal::Doubted)
    });
    timeout(Duration::from_secs(20), doubted).await.unwrap();
    assert_eq!(watch.load(Instant::now()).running, None);
}
