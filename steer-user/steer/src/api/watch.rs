//! `/v1/watch`: stream of changes as lines of JSON.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::stream;
use hyper::body::Bytes;
use serde_json::{Value, json};
use steer_core::journal::Watchers;
use tokio::{
    sync::broadcast::{Receiver, Sender, error::RecvError},
    time::timeout,
};

/// Interval of keepalive lines: a client that receives none for longer has lost the connection.
const ALIVE: Duration = Duration::from_secs(10);

/// Number of events buffered for each watcher.
const BUFFERED: usize = 1024;

/// Events of the journal for clients that watch.
#[derive(Clone, Debug)]
pub struct Changes(Sender<Value>);

impl Default for Changes {
    fn default() -> Self {
        Self(Sender::new(BUFFERED))
    }
}

impl Changes {
    /// Returns a receiver of new events. One more than [`BUFFERED`] behind learns how many it
    /// missed.
    fn watch(&self) -> Receiver<Value> {
        self.0.subscribe()
    }
}

impl Watchers for Changes {
    fn are_there(&self) -> bool {
        self.0.receiver_count() > 0
    }

    fn send(&self, change: Value) {
        // A watcher may have left since the check.
        let _ = self.0.send(change);
    }
}

pub(super) fn watching(changes: Changes) -> Router {
    Router::new()
        .route("/v1/watch", get(watch))
        .with_state(changes)
}

async fn watch(State(changes): State<Changes>) -> Response {
    let lines = stream::unfold(Reading::Begin(changes.watch()), next);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}

enum Reading {
    Begin(Receiver<Value>),
    Goes(Receiver<Value>),
    Over,
}

/// Returns the next line. A client that reads too slowly is disconnected after a line that states
/// how many events it missed; the journal has them.
async fn next(state: Reading) -> Option<(Result<Bytes, Infallible>, Reading)> {
    let mut changes = match state {
        Reading::Begin(changes) => {
            return Some((
                line(&json!({ "event": "watching" })),
                Reading::Goes(changes),
            ));
        }
        Reading::Goes(changes) => changes,
        Reading::Over => return None,
    };
    match timeout(ALIVE, changes.recv()).await {
        Ok(Ok(change)) if change["event"] == "stop" => Some((line(&change), Reading::Over)),
        Ok(Ok(change)) => Some((line(&change), Reading::Goes(changes))),
        Ok(Err(RecvError::Lagged(missed))) => {
            let why = format!("the client read too slowly: {missed} changes were not sent");
            let last = json!({ "event": "end", "why": why, "missed": missed });
            Some((line(&last), Reading::Over))
        }
        Ok(Err(RecvError::Closed)) => {
            let last = json!({ "event": "end", "why": "the daemon is stopping" });
            Some((line(&last), Reading::Over))
        }
        Err(_) => Some((line(&json!({ "event": "alive" })), Reading::Goes(changes))),
    }
}

fn line(value: &Value) -> Result<Bytes, Infallible> {
    Ok(Bytes::from(format!("{value}\n")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use steer_core::journal::{Event, Journal};

    use super::*;

    fn watched() -> (Changes, Journal) {
        let changes = Changes::default();
        let journal = Journal::none().watched_by(Arc::new(changes.clone()));
        (changes, journal)
    }

    fn record_test_events(journal: &Journal, count: usize) {
        for number in 0..count {
            journal.record(Event::DrainDeadline {
                backend: format!("b{number}"),
            });
        }
    }

    async fn step(state: Reading) -> (Value, Reading) {
        let (line, state) = next(state).await.unwrap();
        let line = line.unwrap();
        assert!(line.ends_with(b"\n") && line.iter().filter(|b| **b == b'\n').count() == 1);
        (serde_json::from_slice(&line).unwrap(), state)
    }

    #[tokio::test(start_paused = true)]
    async fn changes_come_in_order_and_silence_is_broken() {
        let (changes, journal) = watched();
        let (first, state) = step(Reading::Begin(changes.watch())).await;
        assert_eq!(first["event"], "watching");
        record_test_events(&journal, 2);
        let (a, state) = step(state).await;
        let (b, state) = step(state).await;
        assert_eq!(
            (a["event"].as_str(), a["backend"].as_str()),
            (Some("drain_deadline"), Some("b0"))
        );
        assert_eq!(b["backend"], "b1");
        assert!(a["at"].is_string(), "{a}");
        // The clock advances while nothing happens.
        let (alive, _) = step(state).await;
        assert_eq!(alive["event"], "alive");
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_so_and_left() {
        let (changes, journal) = watched();
        let (_, state) = step(Reading::Begin(changes.watch())).await;
        record_test_events(&journal, BUFFERED + 5);
        let (last, state) = step(state).await;
        assert_eq!(last["event"], "end");
        assert_eq!(last["missed"], 5);
        assert!(next(state).await.is_none());
    }

    #[tokio::test]
    async fn the_end_of_the_daemon_is_the_end() {
        let (changes, journal) = watched();
        let (_, state) = step(Reading::Begin(changes.watch())).await;
        journal.record(Event::Stop);
        let (last, state) = step(state).await;
        assert_eq!(last["event"], "stop");
        assert!(next(state).await.is_none());
    }
}
