//! Properties of the engine model.

use std::time::Duration;

use super::{Engine, Job, Profile, Progress, predict};

fn job(id: usize, prompt: u32, output: u32) -> Job {
    Job {
        id,
        prompt,
        output,
        session: 0,
        history: 0,
    }
}

/// Requests with times.
type Times = Vec<(usize, Duration)>;

/// Runs an engine until it is idle. Returns when each request had its first token, and when it was done.
fn drain(engine: &mut Engine) -> (Times, Times) {
    let (mut now, mut first, mut done) = (Duration::ZERO, Vec::new(), Vec::new());
    let mut progress = Vec::new();
    while let Some(step) = engine.begin_step() {
        now += step;
        engine.end_step(&mut progress);
        for event in progress.drain(..) {
            match event {
                Progress::First(id) => first.push((id, now)),
                Progress::Done(id) => done.push((id, now)),
            }
        }
    }
    assert_eq!(engine.used, 0);
    (first, done)
}

fn profile() -> Profile {
    Profile::ACCELERATOR
}

#[test]
fn a_lone_request_takes_what_the_step_time_says() {
    let mut engine = Engine::new(profile());
    engine.push(job(1, 1024, 3));
    let (first, done) = drain(&mut engine);
    let step = profile().step;
    let prefill = 2.0 * step.micros(512, 1, 0);
    assert!((first[0].1.as_secs_f64() * 1e6 - prefill).abs() < 1.0);
    let decode = step.micros(0, 1, 1024) + step.micros(0, 1, 1025);
    assert!((done[0].1.as_secs_f64() * 1e6 - prefill - decode).abs() < 1.0);
}

#[test]
fn decode_slows_while_a_prompt_is_computed() {
    let mut engine = Engine::new(profile());
    engine.push(job(1, 10, 100));
    engine.begin_step();
    engine.end_step(&mut Vec::new());
    let alone = engine.begin_step().unwrap();
    engine.end_step(&mut Vec::new());
    engine.push(job(2, 2000, 1));
    let beside = engine.begin_step().unwrap();
    assert!(beside > 4 * alone, "{alone:?} {beside:?}");
}

#[test]
fn a_step_computes_no_more_tokens_than_its_budget() {
    let mut engine = Engine::new(profile());
    for id in 0..10 {
        engine.push(job(id, 3000, 5));
    }
    let most = profile().step.micros(512, 64, 64 * 3000);
    while let Some(step) = engine.begin_step() {
        assert!(step.as_secs_f64() * 1e6 <= most);
        engine.end_step(&mut Vec::new());
    }
}

#[test]
fn no_more_sequences_run_than_may() {
    let mut engine = Engine::new(Profile::FEW_SLOTS);
    for id in 0..10 {
        engine.push(job(id, 10, 10));
    }
    engine.begin_step();
    assert_eq!((engine.running(), engine.waiting()), (4, 6));
    engine.end_step(&mut Vec::new());
    let (_, done) = drain(&mut engine);
    assert_eq!(done.len(), 10);
}

#[test]
fn a_full_kv_cache_preempts_and_all_requests_end() {
    let mut engine = Engine::new(Profile {
        kv_tokens: 4000,
        ..profile()
    });
    for id in 0..8 {
        engine.push(job(id, 450, 300));
    }
    let (first, done) = drain(&mut engine);
    assert!(engine.preemptions() > 0);
    assert_eq!((first.len(), done.len()), (8, 8));
    let mut roomy = Engine::new(profile());
    for id in 0..8 {
        roomy.push(job(id, 450, 300));
    }
    let (_, sooner) = drain(&mut roomy);
    assert_eq!(roomy.preemptions(), 0);
    assert!(sooner[7].1 < done[7].1);
}

#[test]
fn a_prefix_hit_shortens_prefill() {
    let mut engine = Engine::new(profile());
    let turn = |id, prompt, history| Job {
        session: 7,
        history,
        ..job(id, prompt, 20)
    };
    engine.push(turn(1, 2000, 0));
    let (cold, _) = drain(&mut engine);
    engine.push(turn(2, 2200, 2000));
    let (warm, _) = drain(&mut engine);
    assert!(warm[0].1 * 4 < cold[0].1, "{cold:?} {warm:?}");
    // A session that nothing has computed gains nothing.
    engine.push(Job {
        session: 8,
        ..turn(3, 2200, 2000)
    });
    let (other, _) = drain(&mut engine);
    assert!(other[0].1 > cold[0].1);
}

#[test]
fn the_prefix_cache_yields_to_running_sequences() {
    let mut engine = Engine::new(Profile {
        kv_tokens: 4000,
        ..profile()
    });
    engine.push(Job {
        session: 1,
        ..job(1, 1800, 1)
    });
    drain(&mut engine);
    assert!(engine.cached(1) >= 1800);
    engine.push(job(2, 1900, 1000));
    drain(&mut engine);
    assert_eq!(engine.cached(1), 0);
    assert_eq!(engine.preemptions(), 0);
}

#[test]
fn a_prediction_is_what_happens_if_nothing_else_comes() {
    let mut engine = Engine::new(Profile::FEW_SLOTS);
    for id in 0..9 {
        engine.push(job(id, 300 + 100 * id as u32, 20 + 30 * id as u32));
    }
    let predicted = predict(&engine, &[job(9, 500, 10)], Duration::ZERO);
    engine.push(job(9, 500, 10));
    let (first, _) = drain(&mut engine);
    let (_, at) = first.iter().find(|(id, _)| *id == 9).unwrap();
    assert_eq!(*at, predicted);
}

#[test]
fn a_cancelled_request_frees_its_memory() {
    let mut engine = Engine::new(profile());
    engine.push(job(1, 2000, 10));
    engine.begin_step();
    engine.cancel(1);
    assert_eq!(engine.used, 0);
    assert!(engine.begin_step().is_none());
}
