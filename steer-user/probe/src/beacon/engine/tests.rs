//! Pages of all engines; `tests/` has a fake engine over real sockets.

mod fake;
mod watch;

use super::*;

macro_rules! page {
    ($name:literal) => {
        include_str!(concat!("../../../../../tests/engine/pages/", $name))
    };
}

struct Case {
    engine: Engine,
    page: &'static str,
    running: Option<f64>,
    waiting: Option<f64>,
    capacity: Option<f64>,
    kv_use: Option<f64>,
    tokens: Option<f64>,
    /// Means in seconds: time to the first token, and between tokens.
    seconds: (Option<f64>, Option<f64>),
    missing: &'static [&'static str],
}

const CASES: [Case; 19] = [
    Case {
        engine: Engine::Vllm,
        page: page!("vllm-0.11.txt"),
        running: Some(12.0),
        waiting: Some(3.0),
        capacity: None,
        kv_use: Some(0.25),
        tokens: Some(20480.0),
        seconds: (Some(0.15), Some(300.0 / 20380.0)),
        missing: &[],
    },
    Case {
        engine: Engine::Vllm,
        page: page!("vllm-0.6.txt"),
        running: Some(4.0),
        waiting: Some(1.0),
        capacity: None,
        kv_use: Some(0.75),
        tokens: Some(50.0),
        seconds: (Some(0.3), Some(1.0 / 45.0)),
        missing: &[],
    },
    Case {
        engine: Engine::Vllm,
        page: page!("vllm-0.32.txt"),
        running: Some(3.0),
        waiting: Some(21.0),
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
        running: Some(0.0),
        waiting: Some(0.0),
        capacity: None,
        kv_use: Some(0.0),
        tokens: Some(0.0),
        seconds: (None, None),
        missing: &[],
    },
    Case {
        engine: Engine::Sglang,
        page: page!("sglang-0.5.txt"),
        running: Some(7.0),
        waiting: Some(2.0),
        capacity: None,
        kv_use: Some(0.5),
        tokens: Some(4096.0),
        seconds: (Some(0.2), Some(0.01)),
        missing: &[],
    },
    Case {
        engine: Engine::Tgi,
        page: page!("tgi-3.txt"),
        running: Some(6.0),
        waiting: Some(5.0),
        capacity: None,
        kv_use: None,
        tokens: Some(11000.0),
        seconds: (None, Some(0.02)),
        missing: &[],
    },
    Case {
        engine: Engine::Triton,
        page: page!("triton-24.txt"),
        running: Some(9.0),
        waiting: Some(4.0),
        capacity: Some(512.0),
        kv_use: Some(0.4),
        tokens: None,
        seconds: (Some(0.2), None),
        missing: &[],
    },
    Case {
        engine: Engine::TrtllmServe,
        page: page!("trtllm-serve-1.txt"),
        running: Some(5.0),
        waiting: Some(0.0),
        capacity: Some(2048.0),
        kv_use: Some(0.125),
        tokens: Some(320.0),
        seconds: (Some(0.07), Some(0.01)),
        missing: &[],
    },
    Case {
        engine: Engine::LlamaCpp,
        page: page!("llama.cpp-2026.txt"),
        running: Some(0.0),
        waiting: Some(0.0),
        capacity: None,
        kv_use: None,
        tokens: Some(766.0),
        seconds: (None, None),
        missing: &["kv_use"],
    },
    Case {
        engine: Engine::LlamaCpp,
        page: page!("llama.cpp-2024.txt"),
        running: Some(3.0),
        waiting: Some(1.0),
        capacity: None,
        kv_use: Some(0.42),
        tokens: Some(70.0),
        seconds: (None, None),
        missing: &[],
    },
    Case {
        engine: Engine::Sglang,
        page: page!("sglang-0.4.txt"),
        running: Some(162.0),
        waiting: Some(2826.0),
        capacity: None,
        kv_use: Some(0.28),
        tokens: Some(7_557_572.0),
        seconds: (
            Some(2_351_897.947_411_775_6 / 11008.0),
            Some(866_964.579_154_959_8 / 7_400_757.0),
        ),
        missing: &["preemptions"],
    },
    Case {
        engine: Engine::Triton,
        page: page!("triton-23.txt"),
        running: Some(1.0),
        waiting: None,
        capacity: Some(512.0),
        kv_use: None,
        tokens: None,
        seconds: (None, None),
        missing: &["waiting", "kv_use", "first_token"],
    },
    Case {
        engine: Engine::Dynamo,
        page: page!("dynamo-0.5.txt"),
        running: Some(0.0),
        waiting: None,
        capacity: None,
        kv_use: None,
        tokens: None,
        seconds: (None, Some(813_545.702_521_758 / 16_637_145.0)),
        missing: &["waiting", "tokens", "first_token"],
    },
    Case {
        engine: Engine::Dynamo,
        page: page!("dynamo-load.txt"),
        running: Some(3.0),
        waiting: Some(7.0),
        capacity: None,
        kv_use: None,
        tokens: Some(500.0),
        seconds: (None, None),
        missing: &["prompt_tokens", "first_token", "inter_token"],
    },
    Case {
        engine: Engine::Tei,
        page: page!("tei-1.txt"),
        running: None,
        waiting: Some(3.0),
        capacity: None,
        kv_use: None,
        tokens: None,
        seconds: (None, None),
        missing: &[],
    },
    Case {
        engine: Engine::Nim,
        page: page!("nim-1.txt"),
        running: None,
        waiting: Some(1.0),
        capacity: Some(2048.0),
        kv_use: None,
        tokens: Some(997.0),
        seconds: (
            Some(3.781_902_551_651_001 / 34.0),
            Some(1.705_470_085_144_043 / 963.0),
        ),
        missing: &["running", "kv_use"],
    },
    Case {
        engine: Engine::Lmdeploy,
        page: page!("lmdeploy-0.9.txt"),
        running: Some(6.0),
        waiting: Some(1.0),
        capacity: None,
        kv_use: Some(0.375),
        tokens: Some(500.0),
        seconds: (Some(0.3), Some(0.02)),
        missing: &[],
    },
    Case {
        engine: Engine::Openvino,
        page: page!("openvino-2025.txt"),
        running: Some(3.0),
        waiting: None,
        capacity: Some(8.0),
        kv_use: None,
        tokens: None,
        seconds: (None, None),
        missing: &[],
    },
    Case {
        engine: Engine::RayServe,
        page: page!("ray-serve-2.txt"),
        running: Some(4.0),
        waiting: Some(2.0),
        capacity: None,
        kv_use: Some(0.625),
        tokens: Some(300.0),
        seconds: (None, None),
        missing: &[
            "in_flight",
            "prompt_tokens",
            "preemptions",
            "first_token",
            "inter_token",
        ],
    },
];

/// Returns the signals of a page by the profile of an engine.
pub(super) fn read(engine: Engine, page: &str) -> EngineSignals {
    let profile = Profile::built_in(engine).unwrap();
    EngineSignals::from_page(&parse(page, &profile).unwrap(), &profile)
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
        assert_eq!(got.running, case.running, "{name}");
        assert_eq!(got.waiting, case.waiting, "{name}");
        assert_eq!(got.capacity, case.capacity, "{name}");
        assert_eq!(got.kv_use, case.kv_use, "{name}");
        assert_eq!(got.tokens, case.tokens, "{name}");
        let mean =
            |h: &Option<histogram::Histogram>| h.as_ref().and_then(histogram::Histogram::mean);
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
    // Tokens, prompt tokens and steps; then finished requests by reason: of these only `length`.
    // The utilization of the cache is one of them, because it grows while a prompt is read.
    let mut progress: Vec<f64> = got.progress.iter().map(|mark| mark.value).collect();
    progress.sort_by(f64::total_cmp);
    let want = [
        0.0,
        0.0,
        0.0,
        0.0,
        0.888_888_888_888_888_8,
        38.0,
        873.0,
        11015.0,
        35770.0,
    ];
    assert_eq!(progress, want);
    assert_eq!(got.asleep, Some(false));
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
    assert!(idle.progress.iter().all(|mark| mark.value == 0.0));
    let asleep = page!("vllm-0.32-idle.txt").replace("\"awake\"} 1.0", "\"awake\"} 0.0");
    assert_eq!(read(Engine::Vllm, &asleep).asleep, Some(true));
}

#[test]
fn a_page_of_another_engine_says_nothing() {
    for case in CASES {
        for engine in [Engine::Vllm, Engine::Sglang, Engine::Tgi, Engine::LlamaCpp] {
            let got = read(engine, case.page);
            assert_eq!(got.has_load(), engine == case.engine);
            let profile = Profile::built_in(engine).unwrap();
            let complaint = complaints(&profile, &got);
            let renamed = complaint.contains("may have been upgraded");
            assert_eq!(renamed, engine != case.engine, "{complaint}");
        }
    }
}

#[test]
fn a_page_is_a_text_that_its_answer_says_is_whole() {
    let body = |body: &[u8], is_framed| {
        let answer = Answer {
            status: hyper::StatusCode::OK,
            retry_after: false,
            location: None,
            is_framed,
            body: body.to_vec().into(),
        };
        text(&answer)
    };
    assert!(
        body(b"\x1f\x8b\x08", true)
            .unwrap_err()
            .contains("compressed")
    );
    assert_eq!(body(b"a 1", true).unwrap(), "a 1\n");
    assert_eq!(body(b"a 1", false).unwrap(), "a 1");
    let latin = body(b"a{b=\"\xff\"} 1\n", true).unwrap();
    assert_eq!(exposition::parse(&latin, |_| true).unwrap().series.len(), 1);
    for (status, says) in [
        (401, "--engine-key"),
        (404, "--enable-metrics"),
        (500, "status 500"),
    ] {
        let answer = Answer {
            status: hyper::StatusCode::from_u16(status).unwrap(),
            retry_after: false,
            location: None,
            is_framed: true,
            body: Vec::new().into(),
        };
        assert!(refusal(&answer).contains(says), "{status}");
    }
}

#[test]
fn every_cut_of_a_page_is_refused_or_says_less() {
    let whole = read(Engine::Vllm, CASES[0].page);
    let profile = Profile::built_in(Engine::Vllm).unwrap();
    for cut in 0..CASES[0].page.len() {
        let Ok(page) = parse(&CASES[0].page[..cut], &profile) else {
            continue;
        };
        let got = EngineSignals::from_page(&page, &profile);
        for (got, whole) in [(got.running, whole.running), (got.tokens, whole.tokens)] {
            assert!(got.is_none() || got == whole, "{cut}");
        }
    }
}

#[test]
fn documents_of_engines_without_a_page_are_read() {
    let loaded = read(Engine::Ollama, page!("ollama-0.json"));
    assert_eq!((loaded.asleep, loaded.has_load()), (Some(false), false));
    assert_eq!(read(Engine::Ollama, "{\"models\":[]}").asleep, Some(true));
    let profile = Profile::built_in(Engine::Ollama).unwrap();
    assert_eq!(
        complaints(&profile, &loaded),
        "",
        "there is nothing to miss"
    );
    let infinity = read(Engine::Infinity, page!("infinity-0.json"));
    assert_eq!(
        (infinity.waiting, infinity.kv_use),
        (Some(2048.0), Some(0.0625))
    );
    for engine in [Engine::Ollama, Engine::Infinity] {
        let profile = Profile::built_in(engine).unwrap();
        for text in ["", "<html>", "{\"models\":", "a 1\n"] {
            assert!(parse(text, &profile).is_err(), "{text}");
        }
    }
}

#[test]
fn aliases_read_the_page_of_what_is_behind_them() {
    let vllm = read(Engine::Vllm, page!("vllm-0.32.txt"));
    assert_eq!(read(Engine::Kserve, page!("vllm-0.32.txt")), vllm);
    let nim = read(Engine::Nim, page!("vllm-0.32.txt"));
    assert_eq!((nim.running, nim.waiting), (vllm.running, vllm.waiting));
}

#[test]
fn a_value_that_is_needed_and_wrong_is_missing_and_named() {
    let good =
        "llamacpp:requests_processing 2\nllamacpp:requests_deferred 0\nllamacpp:n_decode_total 5\n";
    // Nobody asked for this one.
    let whole = read(
        Engine::LlamaCpp,
        &format!("{good}llamacpp:n_busy_slots_per_decode -nan\n"),
    );
    assert_eq!((whole.running, whole.waiting), (Some(2.0), Some(0.0)));
    assert!(whole.refused.is_empty(), "{:?}", whole.refused);
    for value in ["-nan", "nan", "-inf", "1.2.3", "", "-3", "NaN", "+Inf"] {
        let page = good.replace("processing 2", &format!("processing {value}"));
        let got = read(Engine::LlamaCpp, &page);
        assert_eq!((got.running, got.waiting), (None, Some(0.0)), "{value:?}");
        let profile = Profile::built_in(Engine::LlamaCpp).unwrap();
        let complaint = complaints(&profile, &got);
        assert!(complaint.contains("requests_processing"), "{complaint}");
    }
}
