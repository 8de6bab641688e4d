//! The filter of logs, which can be changed while the process runs.

use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result};
use tracing_subscriber::{EnvFilter, reload};

type Set = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

struct Filter {
    set: Set,
    first: String,
    now: Mutex<String>,
}

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Keeps what the filter is changed by.
pub(super) fn keep<S: 'static>(handle: reload::Handle<EnvFilter, S>, directives: String) {
    let filter = Filter {
        set: Box::new(move |filter| handle.reload(filter)),
        first: directives.clone(),
        now: Mutex::new(directives),
    };
    // Logs are begun once; what comes later says so by itself.
    let _ = FILTER.set(filter);
}

/// The filter's directives; empty before logs begin.
#[must_use]
pub fn filter() -> String {
    let now = FILTER.get().map(|filter| &filter.now);
    now.map_or_else(String::new, |now| {
        now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    })
}

/// Those that logs began with.
#[must_use]
pub fn first_filter() -> String {
    FILTER
        .get()
        .map_or_else(String::new, |filter| filter.first.clone())
}

/// Logs by other directives from now on.
///
/// # Errors
/// If they are none, or logs have not begun.
pub fn set_filter(directives: &str) -> Result<()> {
    let parsed = EnvFilter::try_new(directives)?;
    let filter = FILTER.get().context("logs have not begun")?;
    (filter.set)(parsed)?;
    *filter.now.lock().unwrap_or_else(PoisonError::into_inner) = directives.to_owned();
    Ok(())
}
