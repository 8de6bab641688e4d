//! The engine behind a beacon: the beacon reads its metrics by a profile, watches its progress, and
//! asks it for a tiny completion if there is a sign of trouble. Only that question leads to a
//! verdict.
//!
//! `page` (or `json`) → `read` → `window` read the metrics; `progress`, `question` and `state`
//! interpret them. They are pure, and get the time as an argument. This file, `readiness`, `limits`
//! and `completion` do the waiting.

mod completion;
mod deltas;
mod exposition;
mod histogram;
mod http;
mod json;
mod limits;
mod profile;
mod progress;
mod question;
mod ranks;
mod readiness;
mod selector;
mod signals;
mod state;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyper::header::HeaderValue;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::{
    deltas::CounterDeltas,
    exposition::{Exposition, MAX_PAGE},
    http::{Answer, Client},
    limits::Capacity,
    readiness::{Readiness, ReadinessProbe},
    signals::EngineSignals,
    state::{State, Timeouts},
};
pub use self::{
    profile::{Completion, Engine, Format, Health, Limits, Profile, ProfileError, Sleep},
    selector::Selector,
};
use crate::probe::{Load, NoSignal, Note, Trouble};

/// Timeout of a page. A slow page still shows that the engine works once it arrives.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of checks while the engine is not ready.
const LOADING_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Number of failed checks after which the last page is too old.
const POLLS_PER_PERIOD: u32 = 5;

/// Returns the keys of a profile for which a page has no metric.
///
/// # Errors
///
/// Returns an error if it is not a page of metrics.
pub fn missing(page: &str, profile: &Profile) -> anyhow::Result<Vec<&'static str>> {
    Ok(EngineSignals::from_page(&parse(page, profile)?, profile).missing)
}

fn parse(page: &str, profile: &Profile) -> anyhow::Result<Exposition> {
    Ok(match profile.format {
        Format::Prometheus => exposition::parse(page, |name| profile.wants(name))?,
        Format::Json => json::parse(page, |name| profile.wants(name))?,
    })
}

/// Parameters for watching an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Names of its metrics.
    pub profile: Profile,
    /// Address of its page of metrics.
    pub metrics: SocketAddr,
    /// Address of its API, for completions.
    pub api: SocketAddr,
    /// API key, sent as a bearer token.
    pub key: Option<HeaderValue>,
    /// Interval of checks.
    pub every: Duration,
    /// Time without progress after which an engine with work hangs, unless it answers a question.
    /// Questions start after half of it.
    pub stall: Duration,
    /// Response time of the page after which a question is asked.
    pub silence: Duration,
    /// Interval of tiny completions while idle; `None` disables all questions.
    pub completion: Option<Duration>,
    /// Number of concurrent requests, overriding what the engine reports.
    pub capacity: Option<f64>,
    /// Number of requests that may wait; `None` means the number of concurrent ones.
    pub limit: Option<f64>,
}

/// The watch over an engine, which ends when dropped.
#[derive(Debug)]
pub(super) struct EngineWatch {
    state: watch::Sender<State>,
    capacity: Option<f64>,
    limit: Option<f64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for EngineWatch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl EngineWatch {
    pub(super) fn start(config: EngineConfig) -> Self {
        let patience = Timeouts {
            stall: config.stall,
            silence: config.silence,
            stale: (config.every * POLLS_PER_PERIOD).max(Duration::from_secs(2)),
        };
        let state = watch::Sender::new(State::new(patience, Instant::now()));
        let (capacity, limit) = (config.capacity, config.limit);
        let tasks = vec![
            tokio::spawn(completion::ask_when_due(config.clone(), state.clone())),
            tokio::spawn(poll_engine(config, state.clone())),
        ];
        Self {
            state,
            capacity,
            limit,
            tasks,
        }
    }

    /// Returns the engine's part of the load.
    pub(super) fn load(&self, now: Instant) -> Load {
        let state = self.state.borrow();
        let mut load = state.load(now);
        load.capacity = self.capacity.or(load.capacity);
        load.limit = self.limit.or(load.capacity);
        if let (None, Some(waiting)) = (load.limit, load.waiting) {
            // Without a known limit, a single waiting request in each rank is too many.
            load.limit = Some((waiting / state.queueing_part()).max(1.0));
            if waiting > 0.0 {
                load.notes.insert(0, Note::NoQueueLimit);
            }
        }
        load
    }

    /// Returns the trouble with the engine, and its duration.
    pub(super) fn trouble(&self, now: Instant) -> Option<(Trouble, Duration)> {
        self.state.borrow().trouble(now)
    }
}

/// Checks the engine periodically.
async fn poll_engine(config: EngineConfig, state: watch::Sender<State>) {
    let mut look = EnginePoller::new(&config);
    let mut said = String::new();
    loop {
        let begun = Instant::now();
        let what = look.poll(&config, &state).await;
        if what != said {
            let (engine, metrics) = (&config.profile.name, config.metrics);
            if what.is_empty() {
                tracing::info!(engine, %metrics, "metrics are read");
            } else {
                tracing::warn!(engine, %metrics, what, "engine's metrics");
            }
            said = what;
        }
        let trouble = state.borrow().trouble(Instant::now());
        let every = match trouble {
            Some((Trouble::Loading, _)) => config.every.min(LOADING_POLL_INTERVAL),
            _ => config.every,
        };
        // A slow engine gets a pause after each check.
        sleep(every.saturating_sub(begun.elapsed()).max(every / 10)).await;
    }
}

/// State needed for a check of an engine.
struct EnginePoller {
    client: Client,
    asker: ReadinessProbe,
    window: CounterDeltas,
    capacity: Capacity,
    restarts: u32,
}

impl EnginePoller {
    fn new(config: &EngineConfig) -> Self {
        let EngineConfig {
            profile, api, key, ..
        } = config;
        let (health, sleep) = (profile.health.clone(), profile.sleep.clone());
        Self {
            client: Client::new(config.metrics, key.clone()),
            asker: ReadinessProbe::new(*api, key.clone(), health, sleep),
            window: CounterDeltas::default(),
            capacity: Capacity::default(),
            restarts: 0,
        }
    }

    /// Runs one check, and returns complaints in words.
    async fn poll(&mut self, config: &EngineConfig, state: &watch::Sender<State>) -> String {
        let profile = &config.profile;
        state.send_modify(|state| state.page_asked(Instant::now()));
        let readiness = self.asker.readiness().await;
        let now = Instant::now();
        state.send_if_modified(|state| match readiness {
            Readiness::Ready => state.ready(true, now),
            Readiness::Loading => state.ready(false, now),
            Readiness::Unknown => false,
        });
        if readiness == Readiness::Loading {
            self.restarted();
        }
        let wakes = profile.sleep.as_ref().is_some_and(|sleep| sleep.wakes);
        if self.asker.is_asleep().await {
            // Requesting its page would wake it.
            state.send_modify(|state| state.asleep(true, wakes, Instant::now()));
            return String::new();
        }
        let longest = PAGE_TIMEOUT.max(config.silence.min(PAGE_TIMEOUT * 2));
        let looked = timeout(longest, fetch(&mut self.client, profile)).await;
        let now = Instant::now();
        match looked {
            Err(_) => {
                state.send_modify(State::mark_silent);
                format!("no answer within {} s", longest.as_secs())
            }
            Ok(Err((why, what))) => {
                if why == NoSignal::Unreachable {
                    self.restarted();
                }
                state.send_modify(|state| state.mark_unreadable(why));
                what
            }
            Ok(Ok(mut reading)) => {
                if let (None, Some(limits)) = (reading.capacity, &profile.limits) {
                    let key = config.key.as_ref();
                    reading.capacity = self.capacity.get(limits, config.api, key, now).await;
                }
                let asleep = reading.asleep;
                let mut what = complaints(profile, &reading);
                state.send_modify(|state| {
                    state.reading(&mut self.window, reading, profile.names_load(), now);
                    state.asleep(asleep == Some(true), wakes, now);
                });
                if self.window.restarts() != self.restarts {
                    self.restarts = self.window.restarts();
                    self.restarted();
                }
                let stuck = state.borrow().stuck_ranks(now);
                if !stuck.is_empty() {
                    what = format!("rank {stuck} stands still while its queue grows; {what}");
                }
                what
            }
        }
    }

    /// Handles a possible restart of the engine.
    fn restarted(&mut self) {
        self.capacity.invalidate();
        self.asker.restarted();
    }
}

async fn fetch(
    client: &mut Client,
    profile: &Profile,
) -> Result<EngineSignals, (NoSignal, String)> {
    let path = &profile.metrics;
    let mut answer = get(client, path).await?;
    // A server that has its page behind a slash sends its clients there.
    let moved = answer.location.as_deref().filter(|to| to.starts_with('/'));
    if let (true, Some(to)) = (answer.status.is_redirection(), moved) {
        let to = to.to_owned();
        answer = get(client, &to).await?;
    }
    if !answer.status.is_success() {
        let what = format!("{path}: {}", refusal(&answer));
        return Err((NoSignal::Unreachable, what));
    }
    let malformed = |e: &dyn std::fmt::Display| (NoSignal::Malformed, format!("{path}: {e}"));
    let page = text(&answer).map_err(|what| malformed(&what))?;
    let page = parse(&page, profile).map_err(|e| malformed(&e))?;
    Ok(EngineSignals::from_page(&page, profile))
}

async fn get(client: &mut Client, path: &str) -> Result<Answer, (NoSignal, String)> {
    let answer = client.request(path, None, MAX_PAGE).await;
    answer.map_err(|error| {
        let why = match &error {
            http::HttpError::Cut(_) | http::HttpError::TooLong(_) => NoSignal::Malformed,
            http::HttpError::Connect(_) | http::HttpError::Broken(_) => NoSignal::Unreachable,
        };
        (why, format!("{path}: {error}"))
    })
}

/// Says what a status in the place of a page means, and what to do.
fn refusal(answer: &Answer) -> String {
    let status = answer.status.as_u16();
    let todo = match status {
        401 | 403 => "; the engine wants a key: give its file by --engine-key".to_owned(),
        404 | 405 | 501 => {
            "; there is no such page: start the engine with its metrics on (`--enable-metrics` of SGLang, \
             `--metrics` of llama.cpp), or say by --metrics or a profile where it is"
                .to_owned()
        }
        300..=399 => {
            let to = answer.location.as_deref().unwrap_or("nowhere");
            format!("; it sends clients to {to}: say by --metrics or a profile where the page is")
        }
        _ => String::new(),
    };
    format!("status {status}{todo}")
}

/// The text of a page. A byte that is none spoils its line and no other.
fn text(answer: &Answer) -> Result<String, &'static str> {
    if answer.body.starts_with(&[0x1f, 0x8b]) {
        return Err(
            "the page is compressed although that was not asked for; take compression off it, in the proxy \
             before the engine for instance",
        );
    }
    let mut text = String::from_utf8_lossy(&answer.body).into_owned();
    // The answer says itself that it is whole.
    if answer.is_framed && !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Returns in words the differences of a page from its profile.
fn complaints(profile: &Profile, reading: &EngineSignals) -> String {
    let mut words = Vec::new();
    if profile.names_load() && !reading.has_load() {
        let names = [
            &profile.running,
            &profile.waiting,
            &profile.in_flight,
            &profile.kv_use,
        ];
        let names: Vec<String> = names
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        words.push(format!(
            "the page has none of {}: the engine may have been upgraded, be another one, or have \
             served nothing yet; use a profile with other names if needed",
            names.join(", ")
        ));
    } else if !reading.missing.is_empty() {
        words.push(format!("no signal of {}", reading.missing.join(", ")));
    }
    if !reading.refused.is_empty() {
        words.push(format!(
            "ignored as implausible: {}",
            reading.refused.join(", ")
        ));
    }
    words.join("; ")
}
