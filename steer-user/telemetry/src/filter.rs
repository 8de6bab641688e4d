//! The log filter, which can be changed at run time.

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

/// Stores the handle that changes the filter.
pub(super) fn install<S: 'static>(handle: reload::Handle<EnvFilter, S>, directives: String) {
    let filter = Filter {
        set: Box::new(move |filter| handle.reload(filter)),
        first: directives.clone(),
        now: Mutex::new(directives),
    };
    // Logging starts once; a later attempt reports that by itself.
    let _ = FILTER.set(filter);
}

/// Returns the directives of the filter; empty before logging starts.
#[must_use]
pub fn filter() -> String {
    let now = FILTER.get().map(|filter| &filter.now);
    now.map_or_else(String::new, |now| {
        now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    })
}

/// Returns the directives at the start.
#[must_use]
pub fn first_filter() -> String {
    FILTER
        .get()
        .map_or_else(String::new, |filter| filter.first.clone())
}

/// Replaces the directives of the filter.
///
/// # Errors
///
/// Returns an error if they are invalid, or logging has not started.
pub fn set_filter(directives: &str) -> Result<()> {
    let parsed = EnvFilter::try_new(directives)?;
    let filter = FILTER.get().context("logging has not started")?;
    (filter.set)(parsed)?;
    *filter.now.lock().unwrap_or_else(PoisonError::into_inner) = directives.to_owned();
    Ok(())
}
