//! Logs of the daemon and the beacon: structured lines on standard error, or in the systemd
//! journal; and notifications of the service manager.

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

/// Environment variable with the log filter, as `tracing` directives.
pub const LOG_VARIABLE: &str = "STEER_LOG";
const DEFAULT_FILTER: &str = "info";

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text; with separate fields (`STEER_BACKEND=...`) if standard error leads to the systemd
    /// journal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(anyhow!(
                "log format \"{}\" is unknown: write text or json",
                word.escape_debug()
            )),
        }
    }
}

/// Starts logging to standard error, or to the journal that it leads to. Call it once.
///
/// # Errors
///
/// Returns an error if the variable [`LOG_VARIABLE`] is invalid, or logging has started already.
pub fn start(format: LogFormat) -> Result<()> {
    let directives = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| DEFAULT_FILTER.to_owned());
    let filter = EnvFilter::try_new(&directives).with_context(|| {
        format!(
            "{LOG_VARIABLE}=\"{}\" is not a log filter: write for example info,steer=debug",
            directives.escape_debug()
        )
    })?;
    if format == LogFormat::Text && connected_to_journal() {
        let (filter, handle) = reload::Layer::new(filter);
        filter::install(handle, directives);
        return tracing_subscriber::registry()
            .with(filter)
            .with(journald::Journal)
            .try_init()
            .map_err(|e| anyhow!("logging cannot be started: {e}"));
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            filter::install(builder.reload_handle(), directives);
            builder.try_init()
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            filter::install(builder.reload_handle(), directives);
            builder.try_init()
        }
    }
    .map_err(|e| anyhow!("logging cannot be started: {e}"))
}
