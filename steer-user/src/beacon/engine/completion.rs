//! The deep probe: a completion of one token, now and then, of an engine that has nothing to do.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{http::Client, profile::Completion, state::State};

/// An answer is no longer.
const MAX_ANSWER: usize = 256 << 10;
/// An engine that has nothing to do answers sooner; until then what it says of its load is not believed.
const PROMPT: Duration = Duration::from_secs(3);
/// From a completion that failed to the next one.
const AGAIN: Duration = Duration::from_secs(2);

/// What came of one.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Failed(String),
    /// It says something about the question, or about load, and nothing about the engine.
    Inconclusive(String),
}

/// Asks again and again. While the engine makes progress, or has work, it is left alone: progress is
/// a better answer, and a completion would wait behind the work.
pub(super) async fn probe(
    mut client: Client,
    completion: Completion,
    every: Duration,
    limit: Duration,
    state: watch::Sender<State>,
) {
    let mut last = None;
    loop {
        let wait = if state.borrow().is_in_doubt() {
            AGAIN.min(every)
        } else {
            // Not in step with the beacons of other engines.
            every.mul_f64(1.0 - 0.1 * rand::random::<f64>())
        };
        sleep(wait).await;
        let now = Instant::now();
        // Its own completion makes progress, too: half the time tells that from others'.
        let (fresh, working) = {
            let state = state.borrow();
            let progress = state.progress();
            (progress.is_fresh(every / 2, now), progress.is_working())
        };
        if fresh {
            state.send_if_modified(|state| {
                let doubted = state.is_in_doubt();
                state.completed(true, now);
                doubted
            });
            continue;
        }
        if working {
            continue;
        }
        let outcome = {
            let answer = timeout(limit, ask(&mut client, &completion));
            tokio::pin!(answer);
            let answer = match timeout(PROMPT.min(limit), &mut answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    state.send_modify(State::overdue);
                    answer.await
                }
            };
            answer.unwrap_or_else(|_| Outcome::Failed(format!("no answer within {limit:?}")))
        };
        if last.as_ref() != Some(&outcome) {
            match &outcome {
                Outcome::Answered => tracing::info!("a tiny completion is answered"),
                Outcome::Failed(error) => tracing::warn!(error, "a tiny completion failed"),
                Outcome::Inconclusive(what) => {
                    tracing::warn!(what, "a tiny completion says nothing about the engine");
                }
            }
        }
        match &outcome {
            Outcome::Answered => state.send_modify(|s| s.completed(true, Instant::now())),
            Outcome::Failed(_) => state.send_modify(|s| s.completed(false, Instant::now())),
            Outcome::Inconclusive(_) => state.send_modify(State::inconclusive),
        }
        last = Some(outcome);
    }
}

async fn ask(client: &mut Client, completion: &Completion) -> Outcome {
    let mut model = String::new();
    if let Some(path) = &completion.models {
        match client.ask(path, None, MAX_ANSWER).await {
            Ok((status, body)) if status.is_success() => match first_model(&body) {
                Some(name) => model = name,
                None => return Outcome::Inconclusive(format!("{path} names no model")),
            },
            Ok((status, _)) => return judge(path, status),
            Err(error) => return Outcome::Failed(format!("{path}: {error}")),
        }
    }
    // As it stands within a JSON string.
    let quoted = Value::String(model).to_string();
    let body = completion.body.replace("$MODEL", quoted.trim_matches('"'));
    match client.ask(&completion.path, Some(body), MAX_ANSWER).await {
        Ok((status, body)) if status.is_success() => match serde_json::from_slice::<Value>(&body) {
            Ok(answer) if answer.get("error").is_none() => Outcome::Answered,
            Ok(_) => Outcome::Failed(format!(
                "{}: an error with status {status}",
                completion.path
            )),
            Err(error) => Outcome::Failed(format!("{}: no JSON: {error}", completion.path)),
        },
        Ok((status, _)) => judge(&completion.path, status),
        Err(error) => Outcome::Failed(format!("{}: {error}", completion.path)),
    }
}

fn first_model(body: &[u8]) -> Option<String> {
    let list: Value = serde_json::from_slice(body).ok()?;
    list.pointer("/data/0/id")?.as_str().map(str::to_owned)
}

fn judge(path: &str, status: StatusCode) -> Outcome {
    let what = format!("{path}: status {status}");
    if status.is_server_error() {
        Outcome::Failed(what)
    } else {
        Outcome::Inconclusive(what)
    }
}
