//! What a daemon begins with.

use std::time::SystemTime;

use super::{Generation, Standing, StartError, StateError, Store};
use crate::config::{Config, ConfigError, Document};

/// What a daemon begins with.
#[derive(Debug)]
pub struct Started {
    /// The configuration.
    pub config: Config,
    /// What it was made of.
    pub document: Document,
    /// Its generation; `None` if the state directory did not take it.
    pub number: Option<u64>,
    /// Why it is this one.
    pub why: &'static str,
    /// What did not go as it should have, each with what to do.
    pub warnings: Vec<String>,
}

/// Finds out what to begin with. The rule:
///
/// - A trial whose time ran out while no daemon was there is over.
/// - A file that changed since somebody last decided (applied, confirmed, rolled back) is applied,
///   as a reload would. An unchanged one does not undo what was decided.
/// - Else the generation in use goes on, on trial for what is left of it.
/// - A file that is wrong, or a state directory that is full, keeps no daemon from starting as long
///   as there is a generation: it goes on, with a warning.
///
/// # Errors
/// If the file is wrong and no generation can be taken instead.
pub fn start(
    store: &mut Store,
    file: Result<Document, ConfigError>,
    now: SystemTime,
) -> Result<Started, StartError> {
    let mut warnings = Vec::new();
    let mut why = "the generation in use";
    if let Some(standing) = store.standing().cloned() {
        let over = |t: &super::Trial| t.left(now).is_zero();
        if standing.trial.as_ref().is_some_and(over) {
            why = "nobody confirmed the one on trial";
            let confirmed = Standing {
                trial: None,
                ..standing
            };
            end_trial(store, confirmed, &mut warnings);
        }
    }
    let known = generation(store, now, &mut warnings);
    let Some((current, config)) = known else {
        let document = file?;
        let config = document.config()?;
        let number = keep(store, &document, now, &mut warnings);
        return Ok(Started {
            config,
            document,
            number,
            why: "the file",
            warnings,
        });
    };
    if let Some(standing) = store.standing().filter(|s| s.current() != current.number) {
        // The one on trial cannot be used.
        let confirmed = Standing {
            trial: None,
            ..standing.clone()
        };
        end_trial(store, confirmed, &mut warnings);
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
            "generation {} goes on, and not the file: {error}",
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

/// The next start finds that the trial is over, too; but the generation must be that of now.
fn end_trial(store: &mut Store, confirmed: Standing, warnings: &mut Vec<String>) {
    if let Err(error) = store.stand(confirmed.clone()) {
        warnings.push(error.to_string());
        store.assume(confirmed);
    }
}

/// The generation in use, if it can be used; on trial only while there is time left.
fn generation(
    store: &Store,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Option<(Generation, Config)> {
    let standing = store.standing()?;
    let mut numbers = vec![standing.confirmed];
    let trial = standing.trial.as_ref();
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

/// Why the file is not taken though it changed.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
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

/// The file, if it counts more than the generation.
fn file_instead(
    store: &mut Store,
    current: &Generation,
    file: Result<Document, ConfigError>,
    now: SystemTime,
) -> Result<Option<(Document, Config, u64)>, NotTaken> {
    let Some(standing) = store.standing().cloned() else {
        return Ok(None);
    };
    let document = file?;
    let fingerprint = document.fingerprint();
    if fingerprint == standing.file {
        return Ok(None);
    }
    if fingerprint == current.fingerprint {
        // Somebody made the file say what is in use.
        store.stand(Standing {
            file: fingerprint,
            ..standing
        })?;
        return Ok(None);
    }
    let config = document.config()?;
    if standing.trial.is_some() {
        return Err(NotTaken::Trial(current.number));
    }
    let made = store.add(document, "start", now)?;
    if let Err(error) = store.stand(Standing::confirmed(made.number, fingerprint)) {
        store.discard(made.number);
        return Err(error.into());
    }
    store.prune();
    Ok(Some((made.document, config, made.number)))
}

/// Makes the first generation; without it the daemon goes on, too.
fn keep(
    store: &mut Store,
    document: &Document,
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Option<u64> {
    let made = store.add(document.clone(), "start", now).and_then(|made| {
        let standing = Standing::confirmed(made.number, made.fingerprint);
        store.stand(standing).map(|()| made.number)
    });
    made.inspect_err(|error| {
        warnings.push(format!("there is no generation to go back to: {error}"))
    })
    .ok()
}
