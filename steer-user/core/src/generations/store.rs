//! Generations on disk.
//!
//! `generations/<number>.json` is written once and never changed; `generations/active_generation.json` names
//! the active one. Both are replaced by renaming: a crash leaves either the old or the new file,
//! and a full disk leaves the old one.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;
use tracing::warn;

use super::{ActiveGeneration, Entry, Generation, History, Outcome, StateError};
use crate::{config::Document, durable};

const ACTIVE_FILE: &str = "active_generation.json";
/// Copy of the state before the last change, which allows a rollback without free space.
const PREVIOUS_ACTIVE_FILE: &str = "active_generation.before";

/// Generations of a state directory.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    keep: usize,
    standing: Option<ActiveGeneration>,
}

impl Store {
    /// Opens the generations of a state directory, of which `keep` are kept. Writes nothing. If the
    /// file that names the active one is missing, the copy before the last change is used.
    ///
    /// # Errors
    ///
    /// Returns an error if that file exists and cannot be read.
    pub fn open(state: &Path, keep: usize) -> Result<Self, StateError> {
        let folder = state.join("generations");
        let path = folder.join(ACTIVE_FILE);
        let found = match read_active(&path)? {
            Some(standing) => Some(standing),
            // The copy exists without the file only if the file was lost.
            None => read_active(&folder.join(PREVIOUS_ACTIVE_FILE)).unwrap_or_default(),
        };
        Ok(Self {
            folder,
            keep: keep.max(1),
            standing: found,
        })
    }

    /// Works like [`Self::open`], but moves an unreadable file aside and uses the copy. The second
    /// value describes what was wrong.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be moved.
    pub fn recover(state: &Path, keep: usize) -> Result<(Self, Option<StateError>), StateError> {
        match Self::open(state, keep) {
            Ok(store) => {
                let path = store.folder.join(ACTIVE_FILE);
                let is_lost = store.standing.is_some() && !path.exists();
                Ok((store, is_lost.then_some(StateError::Lost(path))))
            }
            Err(error) => {
                let path = state.join("generations").join(ACTIVE_FILE);
                let aside = path.with_extension("damaged");
                fs::rename(&path, &aside).map_err(|e| failed(&path, e))?;
                Ok((Self::open(state, keep)?, Some(error)))
            }
        }
    }

    /// Returns the active generation; `None` before the first one.
    #[must_use]
    pub fn active(&self) -> Option<&ActiveGeneration> {
        self.standing.as_ref()
    }

    /// Sets the number of generations to keep.
    pub fn set_keep(&mut self, keep: usize) {
        self.keep = keep.max(1);
    }

    /// Reads a stored generation.
    ///
    /// # Errors
    ///
    /// Returns an error if it is missing or damaged.
    pub fn generation(&self, number: u64) -> Result<Generation, StateError> {
        let path = self.path(number);
        let text = durable::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StateError::Unknown(number),
            _ => failed(&path, error),
        })?;
        let generation: Generation =
            serde_json::from_slice(&text).map_err(|error| damaged(&path, &error))?;
        let right = generation.number == number
            && generation.document.fingerprint() == generation.fingerprint;
        if right {
            Ok(generation)
        } else {
            Err(damaged(&path, &"its content was changed"))
        }
    }

    /// Lists all stored generations, newest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be read.
    pub fn history(&self) -> Result<History, StateError> {
        let outcome = |number| {
            let standing = self.standing.as_ref();
            standing.map_or(Outcome::Applied, |standing| standing.outcome(number))
        };
        let entry = |number| match self.generation(number) {
            Ok(found) => Entry {
                number,
                made: found.made,
                by: found.by,
                file: found.document.path().to_owned(),
                fingerprint: found.fingerprint,
                outcome: outcome(number),
                damage: None,
            },
            Err(error) => Entry {
                number,
                made: SystemTime::UNIX_EPOCH,
                by: String::new(),
                file: PathBuf::new(),
                fingerprint: String::new(),
                outcome: outcome(number),
                damage: Some(error.to_string()),
            },
        };
        Ok(History {
            generations: self.numbers()?.into_iter().rev().map(entry).collect(),
            standing: self.standing.clone(),
        })
    }

    /// Returns the newest generation that is older than the one in use and was not reverted.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be read.
    pub fn rollback_target(&self) -> Result<Option<u64>, StateError> {
        let current = self.standing.as_ref().map(ActiveGeneration::current);
        let reverted = self.standing.as_ref().map(|standing| &standing.reverted);
        let mut numbers = self.numbers()?.into_iter().rev();
        Ok(numbers.find(|number| {
            current.is_some_and(|current| *number < current)
                && reverted.is_none_or(|reverted| !reverted.contains(number))
        }))
    }

    /// Stores a new generation. [`Self::set_active`] activates it.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be written; then it does not exist.
    pub fn add(
        &mut self,
        document: Document,
        by: &str,
        now: SystemTime,
    ) -> Result<Generation, StateError> {
        let fingerprint = document.fingerprint();
        Ok(Generation {
            number: self.add_shared(&document, &fingerprint, by, now)?,
            made: now,
            by: by.to_owned(),
            fingerprint,
            document,
        })
    }

    /// Works like [`Self::add`], for a document with a known fingerprint; returns the number.
    ///
    /// # Errors
    ///
    /// The same as [`Self::add`].
    pub fn add_shared(
        &mut self,
        document: &Document,
        fingerprint: &str,
        by: &str,
        now: SystemTime,
    ) -> Result<u64, StateError> {
        durable::folder(&self.folder).map_err(|e| failed(&self.folder, e))?;
        let newest = self.numbers()?.last().copied().unwrap_or(0);
        let standing = self.standing.as_ref().map_or(0, ActiveGeneration::current);
        let number = newest.max(standing) + 1;
        let path = self.path(number);
        let generation = GenerationRef {
            number,
            made: now,
            by,
            fingerprint,
            document,
        };
        let text = serde_json::to_vec(&generation).map_err(|e| damaged(&path, &e))?;
        durable::replace(&path, &text).map_err(|e| failed(&path, e))?;
        Ok(number)
    }

    /// Removes a generation that was never active.
    pub fn discard(&mut self, number: u64) {
        if let Err(error) = fs::remove_file(self.path(number)) {
            warn!(number, %error, "a generation that was not applied stays");
        }
    }

    /// Changes the active generation.
    ///
    /// # Errors
    ///
    /// Returns an error if the change cannot be written; then the previous one stays active.
    pub fn set_active(&mut self, standing: ActiveGeneration) -> Result<(), StateError> {
        let standing = self.with_reverted(standing);
        let path = self.folder.join(ACTIVE_FILE);
        let before = self.folder.join(PREVIOUS_ACTIVE_FILE);
        let text = serde_json::to_vec(&standing).map_err(|e| damaged(&path, &e))?;
        let write = || {
            remove(&before)?;
            match fs::hard_link(&path, &before) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            durable::replace(&path, &text)
        };
        write().map_err(|error| failed(&path, error))?;
        self.standing = Some(standing);
        Ok(())
    }

    /// Undoes the last [`Self::set_active`], without needing free space.
    ///
    /// # Errors
    ///
    /// Returns an error on failure; then the next start uses the undone state.
    pub fn restore_active(&mut self, before: Option<ActiveGeneration>) -> Result<(), StateError> {
        let path = self.folder.join(ACTIVE_FILE);
        let undone = match before {
            Some(_) => fs::rename(self.folder.join(PREVIOUS_ACTIVE_FILE), &path),
            None => remove(&path),
        };
        undone
            .and_then(|()| durable::sync_folder(&path))
            .map_err(|error| failed(&path, error))?;
        self.standing = before;
        Ok(())
    }

    /// Uses a state in memory although it could not be written.
    pub(super) fn set_active_unsaved(&mut self, standing: ActiveGeneration) {
        self.standing = Some(self.with_reverted(standing));
    }

    /// Adds the generations reverted so far to a state: those that were pending and are no longer
    /// in use, and those rolled back.
    fn with_reverted(&self, mut standing: ActiveGeneration) -> ActiveGeneration {
        let current = standing.current();
        if let Some(before) = &self.standing {
            standing.reverted.extend(&before.reverted);
            let left = before.current();
            let unconfirmed = before.pending.is_some() && left != current;
            if unconfirmed || current < left {
                standing.reverted.insert(left);
            }
        }
        standing.reverted.remove(&current);
        if let Ok(kept) = self.numbers() {
            standing.reverted.retain(|number| kept.contains(number));
        }
        standing
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number}.json"))
    }

    /// Returns the numbers of all stored generations in ascending order.
    fn numbers(&self) -> Result<Vec<u64>, StateError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&self.folder, error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| failed(&self.folder, e))?.file_name();
            let name = name.to_string_lossy();
            if let Some(Ok(number)) = name.strip_suffix(".json").map(str::parse) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes the oldest excess generations, but never an active one.
    pub fn prune(&self) {
        let (Some(standing), Ok(numbers)) = (&self.standing, self.numbers()) else {
            return;
        };
        for number in numbers.iter().rev().skip(self.keep) {
            if *number != standing.confirmed && *number != standing.current() {
                self.remove_old(*number);
            }
        }
    }

    fn remove_old(&self, number: u64) {
        if let Err(error) = remove(&self.path(number)) {
            warn!(number, %error, "an old generation stays");
        }
    }
}

/// A [`Generation`] in the form in which it is written.
#[derive(Serialize)]
struct GenerationRef<'g> {
    number: u64,
    #[serde(with = "humantime_serde")]
    made: SystemTime,
    by: &'g str,
    fingerprint: &'g str,
    document: &'g Document,
}

/// Reads the state in a file; `None` if there is no such file.
fn read_active(path: &Path) -> Result<Option<ActiveGeneration>, StateError> {
    match durable::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| damaged(path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, error)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(path: &Path, cause: io::Error) -> StateError {
    let todo = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space in the state directory and try again"
        }
        io::ErrorKind::PermissionDenied => "run this as the daemon's user, or as root",
        io::ErrorKind::ReadOnlyFilesystem => "mount the state directory writable",
        _ => "check the state directory",
    };
    StateError::Io {
        path: path.to_owned(),
        cause,
        todo,
    }
}

fn damaged(path: &Path, error: &dyn std::fmt::Display) -> StateError {
    StateError::Damaged {
        path: path.to_owned(),
        what: error.to_string(),
        todo: "restore it from a backup, or delete it",
    }
}
