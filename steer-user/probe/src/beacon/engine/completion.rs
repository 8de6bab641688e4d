//! Tiny completions: a completion of one token on a connection of its own.

use std::time::Instant;

use hyper::StatusCode;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};

use super::{
    EngineConfig,
    http::{Answer, Client},
    profile::{Completion, Profile},
    question::{Occasion, Schedule},
    state::{State, Waiting},
};

/// Maximum length of an answer.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// Interval between checks of a pending question, and of whether one is due.
const TICK: Duration = Duration::from_millis(100);

/// Outcome of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The engine answered.
    Answered,
    /// The engine works, and is full.
    Full(String),
    /// The engine works: it refuses this question, or makes progress on other work meanwhile.
    Alive(String),
    /// A server error, or a failed connection.
    Failed(String),
    /// No answer within the timeout, which exceeds every recent answer of the engine.
    TimedOut(String),
    /// Open connections are served, and new ones are not.
    Unreached(String),
}

impl Outcome {
    /// Returns whether it shows that the engine works.
    pub(super) fn is_life(&self) -> bool {
        matches!(self, Self::Answered | Self::Full(_) | Self::Alive(_))
    }
}

/// Asks a question whenever one is due.
pub(super) async fn ask_when_due(config: EngineConfig, state: watch::Sender<State>) {
    let Some(completion) = config.profile.completion.clone() else {
        return;
    };
    let Some(every) = config.completion else {
        return;
    };
    let tick = (every / 4).clamp(TICK / 10, TICK);
    let idle_every = completion.idle.then_some(every);
    let mut schedule = Schedule::new(idle_every, Instant::now());
    let mut last = None;
    loop {
        sleep(tick).await;
        let now = Instant::now();
        let mut occasion = None;
        state.send_if_modified(|state| {
            if state.take_progress() {
                schedule.progressed();
            }
            let next = state.occasion(every, now);
            if schedule.start(next, now, rand::random()) {
                state.question_started(now);
                occasion = Some(next);
            }
            occasion.is_some()
        });
        let Some(occasion) = occasion else {
            continue;
        };
        let outcome = question(&config, &completion, &state, now).await;
        if last.as_ref() != Some(&outcome) {
            log(config.profile.name.as_str(), &outcome);
        }
        let now = Instant::now();
        if outcome.is_life() {
            schedule.answered(occasion == Occasion::Hint, now);
        } else {
            schedule.failed(now);
        }
        let quiet_until = schedule.quiet_until();
        state.send_modify(|state| state.question_ended(&outcome, quiet_until, now));
        last = Some(outcome);
    }
}

fn log(engine: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Answered => tracing::info!(engine, "a tiny completion was answered"),
        Outcome::Full(reason) => tracing::info!(engine, reason, "the engine is full"),
        Outcome::Alive(reason) => {
            tracing::info!(
                engine,
                reason,
                "a tiny completion was not answered, but the engine works"
            );
        }
        Outcome::Failed(reason) | Outcome::TimedOut(reason) | Outcome::Unreached(reason) => {
            tracing::warn!(engine, reason, "a tiny completion failed");
        }
    }
}

/// Asks one question, with the timeout from `state`.
async fn question(
    config: &EngineConfig,
    completion: &Completion,
    state: &watch::Sender<State>,
    asked: Instant,
) -> Outcome {
    let mut client = Client::new(config.api, config.key.clone());
    let reached = client.reached();
    let is_greeted = completion.models.is_some() || greeting(&config.profile).is_some();
    let answer = request_completion(&mut client, &config.profile, completion);
    tokio::pin!(answer);
    loop {
        tokio::select! {
            outcome = &mut answer => return outcome,
            () = sleep(TICK) => {}
        }
        let now = Instant::now();
        let waited = now.saturating_duration_since(asked);
        // Without a first request that needs no work, a served connection looks like an unserved
        // one.
        let is_reached = !is_greeted || reached.is_answered();
        let waiting = state.borrow().waiting(asked, is_reached, now);
        match waiting {
            Waiting::Usual => {}
            Waiting::Overdue => {
                state.send_if_modified(State::overdue);
            }
            _ if reached.has_body() => return Outcome::Answered,
            Waiting::Working => {
                let what = format!(
                    "it works on other requests, and has not answered within {}",
                    seconds(waited)
                );
                return Outcome::Alive(what);
            }
            Waiting::TimedOut => {
                return Outcome::TimedOut(format!("no answer within {}", seconds(waited)));
            }
            Waiting::Unreached => {
                let what = "it answers on open connections, and nothing on a new one within";
                return Outcome::Unreached(format!("{what} {}", seconds(waited)));
            }
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

async fn request_completion(
    client: &mut Client,
    profile: &Profile,
    completion: &Completion,
) -> Outcome {
    let mut model = String::new();
    if let Some(path) = &completion.models {
        match client.request(path, None, MAX_ANSWER_BYTES).await {
            Ok(answer) if answer.status.is_success() => {
                match first_model(&answer.body, &completion.model) {
                    Some(name) => model = name,
                    None => return Outcome::Alive(format!("{path} names no model")),
                }
            }
            Ok(answer) => return classify_answer(path, &answer),
            Err(error) => return Outcome::Failed(format!("{path}: {error}")),
        }
    } else if let Some(path) = greeting(profile)
        && let Err(error) = client.request(path, None, MAX_ANSWER_BYTES).await
    {
        return Outcome::Failed(format!("{path}: {error}"));
    }
    // The model name, escaped for a JSON string.
    let quoted = Value::String(model).to_string();
    let body = completion.body.replace("$MODEL", quoted.trim_matches('"'));
    match client
        .request(&completion.path, Some(body), MAX_ANSWER_BYTES)
        .await
    {
        Ok(answer) if answer.status.is_success() => read(&completion.path, &answer.body),
        Ok(answer) => classify_answer(&completion.path, &answer),
        Err(error) => Outcome::Failed(format!("{}: {error}", completion.path)),
    }
}

/// Returns a path that every engine answers at once. It distinguishes an engine that serves no new
/// connection from one that has not reached the question in its queue.
fn greeting(profile: &Profile) -> Option<&str> {
    let health = profile.health.as_ref()?;
    (!health.generates).then_some(health.path.as_str())
}

/// Judges the body of a successful answer, in which some engines report errors.
fn read(path: &str, body: &[u8]) -> Outcome {
    if body.starts_with(b"data:") || body.starts_with(b"event:") {
        return Outcome::Answered;
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Outcome::Alive(format!("{path}: the answer is not JSON"));
    };
    let Some(error) = answer.get("error").filter(|error| !error.is_null()) else {
        return Outcome::Answered;
    };
    let code = error.get("code").and_then(Value::as_u64).unwrap_or(500);
    let what = format!("{path}: an error with code {code}, despite a successful status");
    match code {
        500.. => Outcome::Failed(what),
        _ => Outcome::Alive(what),
    }
}

fn first_model(body: &[u8], pointer: &str) -> Option<String> {
    let list: Value = serde_json::from_slice(body).ok()?;
    list.pointer(pointer)?.as_str().map(str::to_owned)
}

/// Judges an answer with an error status. Only a server error is a failure: refusal of the
/// question, the key or the model shows that the engine works, and a request to retry later shows
/// that it is full.
fn classify_answer(path: &str, answer: &Answer) -> Outcome {
    let status = answer.status;
    let what = format!("{path}: status {}", status.as_u16());
    let is_full = status == StatusCode::TOO_MANY_REQUESTS
        || status.as_u16() == 529
        || (status == StatusCode::SERVICE_UNAVAILABLE && answer.retry_after);
    if is_full {
        return Outcome::Full(what);
    }
    match status {
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
            Outcome::Alive(what)
        }
        status if status.is_server_error() => Outcome::Failed(what),
        _ => Outcome::Alive(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, retry_after: bool) -> Outcome {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after,
            location: None,
            is_framed: true,
            body: bytes::Bytes::new(),
        };
        classify_answer("/c", &answer)
    }

    #[test]
    fn only_errors_of_the_engine_are_failures() {
        for status in [400, 401, 403, 404, 405, 422, 424, 301, 501] {
            assert!(
                matches!(judged(status, false), Outcome::Alive(_)),
                "{status}"
            );
        }
        for (status, retry_after) in [(429, false), (429, true), (503, true), (529, false)] {
            let outcome = judged(status, retry_after);
            assert!(matches!(outcome, Outcome::Full(_)), "{status}");
        }
        for status in [500, 502, 503, 504, 520] {
            assert!(
                matches!(judged(status, false), Outcome::Failed(_)),
                "{status}"
            );
        }
    }

    #[test]
    fn a_body_is_an_answer_unless_it_is_an_error_of_the_engine() {
        for body in [
            "{}",
            "{\"choices\":[]}",
            "{\"error\":null}",
            "data: {}\n\n",
            "[[0.5]]",
        ] {
            assert_eq!(read("/c", body.as_bytes()), Outcome::Answered, "{body}");
        }
        for body in ["", "<html>", "{\"error\":{\"code\":404}}", "\u{0}\u{1}"] {
            let outcome = read("/c", body.as_bytes());
            assert!(matches!(outcome, Outcome::Alive(_)), "{body}");
        }
        for body in [
            "{\"error\":{}}",
            "{\"error\":{\"code\":503}}",
            "{\"error\":\"x\"}",
        ] {
            let outcome = read("/c", body.as_bytes());
            assert!(matches!(outcome, Outcome::Failed(_)), "{body}");
        }
        assert_eq!(
            first_model(b"{\"models\":[{\"name\":\"m\"}]}", "/models/0/name").unwrap(),
            "m"
        );
        assert_eq!(first_model(b"{\"data\":[]}", "/data/0/id"), None);
    }
}
