//! Configuration of a starting daemon.

use std::time::SystemTime;

use super::{ActiveGeneration, Generation, StartError, StateError, Store};
use crate::config::{Config, ConfigError, Document};

/// Configuration of a starting daemon, with its origin.
#[derive(Debug)]
pub struct Started {
    /// Configuration.
    pub config: Config,
    /// Its document.
    pub document: Document,
    /// Its generation; `None` if the state directory could not store it.
    pub number: Option<u64>,
    /// Reason for this choice.
    pub why: &'static str,
    /// Problems on the way, each with advice.
    pub warnings: Vec<String>,
}

/// Chooses the configuration to start with, by these rules:
///
/// - A pending generation whose window ended while no daemon ran is reverted.
/// - A file that changed since the last decision (apply, confirm, rollback) is applied, as by a
///   reload. An unchanged file does not undo that decision.
/// - Otherwise the generation in use continues, pending for the rest of its window.
/// - An invalid file or a full state directory does not prevent a start if there is a generation:
///   the daemon continues with that and warns.
///
/// # Errors
///
/// Returns an error if the file is invalid and there is no usable generation.
pub fn start(
    store: &mut Store,
    file: Result<Document, ConfigError>,
    now: SystemTime,
) -> Result<Started, StartError> {
    let mut warnings = Vec::new();
    let mut why = "the generation in use";
    if let Some(standing) = store.active().cloned() {
        let over = |t: &super::PendingConfirmation| t.left(now).is_zero();
        if standing.pending.as_ref().is_some_and(over) {
            why = "the pending one was not confirmed";
            let confirmed = ActiveGeneration {
                pending: None,
                ..standing
            };
            revert_unconfirmed(store, confirmed, &mut warnings);
        }
    }
    let known = generation(store, now, &mut warnings);
    let Some((current, config)) = known else {
        let document = file?;
        let config = document.config()?;
        let number = save_file_generation(store, &document, now, &mut warnings);
        return Ok(Started {
            config,
            document,
            number,
            why: "the file",
            warnings,
        });
    };
    if let Some(standing) = store.active().filter(|s| s.current() != current.number) {
        // The pending generation is unusable.
        let confirmed = ActiveGeneration {
            pending: None,
            ..standing.clone()
        };
        revert_unconfirmed(store, confirmed, &mut warnings);
    }
    match file_instead(store, &current, file, now) {
        Ok(Some((document, config, number))) => {
            return Ok(Started {
                config,
                document,
                number: Some(number),
                why: "the file changed",
                warnings,
            });
        }
        Ok(None) => {}
        Err(error) => warnings.push(format!(
            "continuing with generation {} instead of the file: {error}",
            current.number
        )),
    }
    Ok(Started {
        config,
        document: current.document,
        number: Some(current.number),
        why,
        warnings,
    })
}

/// The next start would find the window ended as well, but the current generation must be right
/// now.
fn revert_unconfirmed(store: &mut Store, confirmed: ActiveGeneration, warnings: &mut Vec<String>) {
    if let Err(error) = store.set_active(confirmed.clone()) {
        warnings.push(error.to_string());
        store.set_active_unsaved(confirmed);
    }
}

/// Returns the generation in use, if usable; it is pending only while time remains.
fn generation(
    store: &Store,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Option<(Generation, Config)> {
    let standing = store.active()?;
    let mut numbers = vec![standing.confirmed];
    let trial = standing.pending.as_ref();
    numbers.extend(trial.filter(|t| !t.left(now).is_zero()).map(|t| t.number));
    while let Some(number) = numbers.pop() {
        let found = store.generation(number).map_err(|e| e.to_string());
        let config = found.and_then(|found| match found.document.config() {
            Ok(config) => Ok((found, config)),
            Err(error) => Err(error.to_string()),
        });
        match config {
            Ok(found) => return Some(found),
            Err(error) => warnings.push(format!("generation {number} cannot be used: {error}")),
        }
    }
    None
}

/// Reason why a changed file is not applied.
#[derive(Debug, thiserror::Error)]
enum NotApplied {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(
        "it changed, but generation {0} has to be confirmed first; `steer config confirm` or \
         `steer config rollback`, then reload"
    )]
    Trial(u64),
}

/// Returns the file, if it takes precedence over the generation.
fn file_instead(
    store: &mut Store,
    current: &Generation,
    file: Result<Document, ConfigError>,
    now: SystemTime,
) -> Result<Option<(Document, Config, u64)>, NotApplied> {
    let Some(standing) = store.active().cloned() else {
        return Ok(None);
    };
    let document = file?;
    let fingerprint = document.fingerprint();
    if fingerprint == standing.file {
        return Ok(None);
    }
    if fingerprint == current.fingerprint {
        // The file was changed to what is already in use.
        store.set_active(ActiveGeneration {
            file: fingerprint,
            ..standing
        })?;
        return Ok(None);
    }
    let config = document.config()?;
    if standing.pending.is_some() {
        return Err(NotApplied::Trial(current.number));
    }
    let made = store.add(document, "start", now)?;
    if let Err(error) = store.set_active(ActiveGeneration::confirmed(made.number, fingerprint)) {
        store.discard(made.number);
        return Err(error.into());
    }
    store.prune();
    Ok(Some((made.document, config, made.number)))
}

/// Stores the first generation; on failure the daemon continues without it.
fn save_file_generation(
    store: &mut Store,
    document: &Document,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Option<u64> {
    let made = store.add(document.clone(), "start", now).and_then(|made| {
        let standing = ActiveGeneration::confirmed(made.number, made.fingerprint);
        store.set_active(standing).map(|()| made.number)
    });
    made.inspect_err(|error| warnings.push(format!("there is no generation to revert to: {error}")))
        .ok()
}
