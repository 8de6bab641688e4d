//! Options of the engine that a beacon watches.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use humantime_serde::re::humantime::parse_duration;
use hyper::header::HeaderValue;
use steer_probe::beacon::{self, EngineConfig, Profile};

#[derive(Debug, Args)]
#[command(next_help_heading = "The engine")]
pub(super) struct Engine {
    /// Engine behind --backend: report its load and watch its progress.
    #[arg(long, requires = "backend")]
    engine: Option<beacon::Engine>,
    /// File with a custom engine profile; `--print-profile` prints one to start with.
    #[arg(
        long,
        value_name = "FILE",
        requires = "backend",
        conflicts_with = "engine"
    )]
    profile: Option<PathBuf>,
    /// Address of the engine's page of metrics (default: --backend).
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// File with the engine's API key.
    #[arg(long, value_name = "FILE")]
    engine_key: Option<PathBuf>,
    /// Interval between reads of the engine's metrics.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    look_every: Duration,
    /// Time without progress after which an engine with work counts as hung, unless it answers a
    /// question. Questions start after half of it.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    stall: Duration,
    /// Response time of the page of metrics after which the engine is asked a question.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    silence: Duration,
    /// Interval of one-token completions while the engine is idle. 0s disables all questions, so
    /// that a hang is never detected.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    completion_every: Duration,
    /// Number of concurrent requests, overriding what the engine reports.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    capacity: Option<u32>,
    /// Number of waiting requests that is too many (default: the number of concurrent ones).
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    waiting_limit: Option<u32>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|e| e.to_string())?;
    let sane = Duration::from_millis(50)..=Duration::from_secs(3600);
    if sane.contains(&duration) {
        Ok(duration)
    } else {
        Err("write 50ms to 1h".to_owned())
    }
}

impl Engine {
    /// Returns the engine to watch, if one is named; `api` is the address of its requests.
    pub(super) fn config(self, api: SocketAddr) -> Result<Option<EngineConfig>> {
        let profile = match (self.engine, &self.profile) {
            (Some(engine), _) => Profile::built_in(engine)?,
            (None, Some(file)) => Profile::load(file)?,
            (None, None) => return Ok(None),
        };
        let key = match &self.engine_key {
            Some(file) => Some(key(file)?),
            None => None,
        };
        let every = self.completion_every;
        Ok(Some(EngineConfig {
            profile,
            metrics: self.metrics.unwrap_or(api),
            api,
            key,
            every: self.look_every,
            stall: self.stall,
            silence: self.silence,
            completion: (!every.is_zero()).then(|| every.max(Duration::from_secs(1))),
            capacity: self.capacity.map(f64::from),
            limit: self.waiting_limit.map(f64::from),
        }))
    }
}

/// Reads a bearer token from a file.
fn key(file: &PathBuf) -> Result<HeaderValue> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("engine's key {name}"))?;
    let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", text.trim())) else {
        bail!(
            "engine's key {name}: it has characters that are invalid in a header; the file must \
             contain one line of text"
        );
    };
    value.set_sensitive(true);
    Ok(value)
}
