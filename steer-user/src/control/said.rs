//! Files of what the operator said.

use std::{io, path::Path};

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};
use tracing::{info, warn};

use crate::durable;

/// Reads a file; without one, nothing was said. `without` is what its removal does.
pub(super) fn read<T: DeserializeOwned + Default>(path: &Path, without: &str) -> Result<T> {
    match durable::read(path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| {
            format!(
                "{}: it makes no sense; remove it to {without}",
                path.display()
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error).with_context(|| format!("{}", path.display())),
    }
}

/// Replaces a file; a crash leaves the old one or the new one.
pub(super) fn write(path: &Path, said: &impl Serialize) -> Result<()> {
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            durable::folder(folder)?;
        }
        durable::replace(path, &serde_json::to_vec(said)?)
    };
    write().with_context(|| format!("{}: cannot be written", path.display()))
}

/// Records whether a file was written, and logs when that changes. `of` says what is in it.
pub(super) fn report(unsaved: &mut Option<String>, of: &str, written: Result<()>) {
    match written {
        Ok(()) if unsaved.take().is_some() => info!("{of} are saved again"),
        Ok(()) => {}
        Err(error) => {
            let why = format!(
                "{of} are kept in memory and end with the daemon: {error:#}; make room in the state directory, or \
                 make it writable, and they are saved"
            );
            if unsaved.is_none() {
                warn!("{why}");
            }
            *unsaved = Some(why);
        }
    }
}
