//! The engine behind a beacon: its metrics are read by a profile, its progress is watched, and now
//! and then it is asked for a tiny completion.
//!
//! `page` → `read` → `window` is what is read; `progress` and `state` say what it means. They are
//! pure, and take the clock as an argument; this file and `completion` do the waiting.

mod completion;
mod http;
mod page;
mod profile;
mod progress;
mod read;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyper::header::HeaderValue;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

pub use self::profile::{Completion, Engine, Limits, Profile, ProfileError, Selector};
use self::{
    http::Client,
    page::MAX_PAGE,
    read::Reading,
    state::{Patience, State},
    window::Window,
};
use crate::probe::{Load, NoSignal, Trouble};

/// From one look at what doesn't change to the next.
const LIMITS_EVERY: Duration = Duration::from_secs(60);
/// So many looks may fail before what was read counts as too old.
const LOOKS: u32 = 5;

/// What a page of metrics lacks of what a profile asks for, by the names of the profile's keys.
///
/// # Errors
/// If it is no page of metrics.
pub fn missing(page: &str, profile: &Profile) -> anyhow::Result<Vec<&'static str>> {
    let series = page::parse(page, |name| profile.wants(name))?;
    Ok(Reading::of(&series, profile).missing)
}

/// How an engine is looked at.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// What its metrics are called.
    pub profile: Profile,
    /// Where its page of metrics is.
    pub metrics: SocketAddr,
    /// Where it serves; completions are asked for there.
    pub api: SocketAddr,
    /// Its API key, sent as a bearer token.
    pub key: Option<HeaderValue>,
    /// From one look to the next.
    pub every: Duration,
    /// Work without progress for so long means that it hangs.
    pub stall: Duration,
    /// So does no answer for so long, if `metrics` is where it serves.
    pub silence: Duration,
    /// How often it is asked for a tiny completion; never without it.
    pub completion: Option<Duration>,
    /// Requests that it works on at once, whatever it says itself.
    pub capacity: Option<f64>,
    /// Requests that may wait; without it, as many as it works on at once.
    pub limit: Option<f64>,
}

/// The watch over an engine; ends when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    state: watch::Sender<State>,
    patience: Patience,
    capacity: Option<f64>,
    limit: Option<f64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Watch {
    pub(super) fn start(config: EngineConfig) -> Self {
        let patience = Patience {
            stall: config.stall,
            silence: (config.metrics == config.api).then_some(config.silence),
            stale: (config.every * LOOKS).max(Duration::from_secs(2)),
        };
        let state = watch::Sender::new(State::new(Instant::now()));
        let mut tasks = Vec::new();
        if let (Some(every), Some(completion)) = (config.completion, &config.profile.completion) {
            let client = Client::new(config.api, config.key.clone());
            tasks.push(tokio::spawn(completion::probe(
                client,
                completion.clone(),
                every,
                config.stall,
                state.clone(),
            )));
        }
        let (capacity, limit) = (config.capacity, config.limit);
        tasks.push(tokio::spawn(look(config, state.clone())));
        Self {
            state,
            patience,
            capacity,
            limit,
            tasks,
        }
    }

    /// The engine's part of the load.
    pub(super) fn load(&self, now: Instant) -> Load {
        let mut load = self.state.borrow().load(&self.patience, now);
        load.capacity = self.capacity.or(load.capacity);
        load.limit = self.limit.or(load.capacity);
        load
    }

    /// What is wrong with the engine, and for how long.
    pub(super) fn trouble(&self, now: Instant) -> Option<(Trouble, Duration)> {
        self.state.borrow().trouble(&self.patience, now)
    }
}

/// Looks at the engine again and again.
async fn look(config: EngineConfig, state: watch::Sender<State>) {
    let EngineConfig {
        profile,
        metrics,
        every,
        silence,
        ..
    } = &config;
    let mut client = Client::new(*metrics, config.key.clone());
    let mut window = Window::default();
    let mut capacity = Capacity::default();
    let mut said = String::new();
    let mut tick = interval(*every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        state.send_modify(|state| state.asked(Instant::now()));
        let looked = timeout(*silence, fetch(&mut client, profile)).await;
        let now = Instant::now();
        let what = match looked {
            Err(_) => {
                state.send_modify(State::silent);
                format!("no answer within {silence:?}")
            }
            Ok(Err((why, what))) => {
                state.send_modify(|state| state.unreadable(why));
                what
            }
            Ok(Ok(mut reading)) => {
                if reading.capacity.is_none() {
                    reading.capacity = capacity.of(&config, now).await;
                }
                let what = complaints(profile, &reading);
                state.send_modify(|state| state.reading(&mut window, reading, now));
                what
            }
        };
        if what != said {
            if what.is_empty() {
                tracing::info!(engine = profile.name, %metrics, "metrics are read");
            } else {
                tracing::warn!(engine = profile.name, %metrics, what, "engine's metrics");
            }
            said = what;
        }
    }
}

async fn fetch(client: &mut Client, profile: &Profile) -> Result<Reading, (NoSignal, String)> {
    let path = &profile.metrics;
    let answer = client.ask(path, None, MAX_PAGE).await;
    let (status, body) = answer.map_err(|error| {
        let why = match &error {
            http::HttpError::Cut(_) | http::HttpError::TooLong(_) => NoSignal::Malformed,
            http::HttpError::Connect(_) | http::HttpError::Broken(_) => NoSignal::Unreachable,
        };
        (why, format!("{path}: {error}"))
    })?;
    if !status.is_success() {
        return Err((NoSignal::Unreachable, format!("{path}: status {status}")));
    }
    let malformed = |e: &dyn std::fmt::Display| (NoSignal::Malformed, format!("{path}: {e}"));
    let page = std::str::from_utf8(&body).map_err(|e| malformed(&e))?;
    let series = page::parse(page, |name| profile.wants(name)).map_err(|e| malformed(&e))?;
    Ok(Reading::of(&series, profile))
}

/// What of a page is not as the profile has it, in words.
fn complaints(profile: &Profile, reading: &Reading) -> String {
    let mut words = Vec::new();
    if !reading.has_load() {
        let names = [&profile.running, &profile.waiting, &profile.kv_use];
        let names: Vec<String> = names
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        words.push(format!(
            "none of {} is there: was the engine upgraded, is it another one, or has it served \
             nothing yet? A profile with other names can be given",
            names.join(", ")
        ));
    } else if !reading.missing.is_empty() {
        words.push(format!("no signal of {}", reading.missing.join(", ")));
    }
    if !reading.refused.is_empty() {
        words.push(format!("not believed: {}", reading.refused.join(", ")));
    }
    words.join("; ")
}

/// How many requests the engine works on at once, by a document of its own.
#[derive(Default)]
struct Capacity {
    last: Option<f64>,
    asked: Option<Instant>,
}

impl Capacity {
    async fn of(&mut self, config: &EngineConfig, now: Instant) -> Option<f64> {
        let limits = config.profile.limits.as_ref()?;
        let due = |at| now.saturating_duration_since(at) >= LIMITS_EVERY;
        if self.asked.is_none_or(due) {
            self.asked = Some(now);
            let mut client = Client::new(config.api, config.key.clone());
            let limit = config.silence.min(Duration::from_secs(1));
            let answer = timeout(limit, client.ask(&limits.path, None, MAX_PAGE)).await;
            let found = match answer {
                Ok(Ok((status, body))) if status.is_success() => {
                    let document: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
                    document.and_then(|d| d.pointer(&limits.capacity)?.as_f64())
                }
                _ => None,
            };
            self.last = found.filter(|n| n.is_finite() && *n > 0.0).or(self.last);
        }
        self.last
    }
}
