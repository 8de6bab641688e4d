//! What the daemon and the beacon log: structured lines on standard error, or in the journal of
//! systemd; and what they tell the service manager.

mod filter;
mod journald;
mod supervisor;

use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use libsystemd::logging::connected_to_journal;
use tracing_subscriber::{
    EnvFilter, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

pub use self::filter::{filter, first_filter, set_filter};
pub use self::supervisor::Supervisor;

/// The variable that says what to log, as `tracing` filter directives.
pub const LOG_VARIABLE: &str = "STEER_LOG";
const DEFAULT_FILTER: &str = "info";

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; with fields of their own (`STEER_BACKEND=...`) where standard error leads to the
    /// journal of systemd.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(anyhow!(
                "log format {word:?} is unknown: write text or json"
            )),
        }
    }
}

/// Sends logs to standard error, or the journal that it leads to, from now on. Call it once.
///
/// # Errors
/// If the variable [`LOG_VARIABLE`] doesn't parse, or logs go somewhere already.
pub fn start(format: LogFormat) -> Result<()> {
    let directives = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(&directives).with_context(|| {
        format!(
            "{LOG_VARIABLE}={directives:?} is no log filter: write for example info,steer=debug"
        )
    })?;
    if format == LogFormat::Text && connected_to_journal() {
        let (filter, handle) = reload::Layer::new(filter);
        filter::keep(handle, directives);
        return tracing_subscriber::registry()
            .with(filter)
            .with(journald::Journal)
            .try_init()
            .map_err(|e| anyhow!("logs can't be started: {e}"));
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            filter::keep(builder.reload_handle(), directives);
            builder.try_init()
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            filter::keep(builder.reload_handle(), directives);
            builder.try_init()
        }
    }
    .map_err(|e| anyhow!("logs can't be started: {e}"))
}
