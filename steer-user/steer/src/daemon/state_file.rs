//! Files of the state directory with what the operator set: drains and weights.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};
use steer_core::{control::Operator, durable};
use tracing::{info, warn};

/// A file of the state directory.
#[derive(Debug)]
struct StateFile<T> {
    path: PathBuf,
    /// Name of its contents.
    what: &'static str,
    /// Contents as they were written, or tried to be written, last.
    written: BTreeMap<String, T>,
    /// Reason why the file is not up to date.
    unsaved: Option<String>,
}

impl<T: Clone + PartialEq + Serialize + DeserializeOwned> StateFile<T> {
    /// Reads a file; one that does not exist is empty. `without` is the effect of deleting it.
    fn read(path: PathBuf, what: &'static str, without: &str) -> Result<Self> {
        let written = match durable::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{}: invalid JSON; delete the file to {without}",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
        };
        Ok(Self {
            path,
            what,
            written,
            unsaved: None,
        })
    }

    /// Replaces the file if its contents changed, or it could not be written before; a crash leaves the old one or the
    /// new one. Logs when it cannot be written, and when it can again.
    fn save(&mut self, contents: &BTreeMap<String, T>) {
        if self.unsaved.is_none() && self.written == *contents {
            return;
        }
        self.written.clone_from(contents);
        let what = self.what;
        match self.write() {
            Ok(()) if self.unsaved.take().is_some() => info!("{what} are saved again"),
            Ok(()) => {}
            Err(error) => {
                let why = format!(
                    "{what} are kept in memory and end with the daemon: {error:#}; make room in the state \
                     directory, or make it writable, and they are saved"
                );
                if self.unsaved.is_none() {
                    warn!("{why}");
                }
                self.unsaved = Some(why);
            }
        }
    }

    fn write(&self) -> Result<()> {
        let write = || -> io::Result<()> {
            if let Some(folder) = self.path.parent() {
                durable::folder(folder)?;
            }
            durable::replace(&self.path, &serde_json::to_vec(&self.written)?)
        };
        write().with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}

/// Files with what the operator set.
#[derive(Debug)]
pub(crate) struct OperatorFiles {
    drains: StateFile<steer_core::control::Drain>,
    weights: StateFile<u32>,
}

impl OperatorFiles {
    /// Reads the files of a state directory.
    ///
    /// # Errors
    /// If one cannot be read, or is damaged.
    pub(crate) fn read(state_dir: &Path) -> Result<Self> {
        Ok(Self {
            drains: StateFile::read(state_dir.join("drained.json"), "drains", "clear all drains")?,
            weights: StateFile::read(
                state_dir.join("weights.json"),
                "weights",
                "have capacities count",
            )?,
        })
    }

    /// Drains and weights as they were read or written last.
    pub(crate) fn operator(&self) -> Operator {
        Operator {
            drains: self.drains.written.clone(),
            weights: self.weights.written.clone(),
        }
    }

    /// Writes what changed, and what could not be written before.
    pub(crate) fn save(&mut self, operator: &Operator) {
        self.drains.save(&operator.drains);
        self.weights.save(&operator.weights);
    }

    /// Reasons why drains or weights are not in the state directory: a restart would not know them.
    pub(crate) fn unsaved(&self) -> Vec<String> {
        let unsaved = [&self.drains.unsaved, &self.weights.unsaved];
        unsaved.into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use steer_core::control::Drain;

    use super::*;

    #[test]
    fn drains_and_weights_that_cannot_be_saved_are_saved_later() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut files = OperatorFiles::read(&state).unwrap();
        // A file in the place of the folder: root, too, cannot write below it.
        std::fs::write(&state, "").unwrap();
        files.save(&Operator::default());
        assert!(files.unsaved().is_empty(), "there is nothing to save");
        let operator = Operator {
            drains: [("a".to_owned(), Drain::default())].into(),
            weights: [("b".to_owned(), 7)].into(),
        };
        files.save(&operator);
        let unsaved = files.unsaved();
        assert_eq!(unsaved.len(), 2, "{unsaved:?}");
        assert!(unsaved[0].contains("drained.json") && unsaved[1].contains("weights.json"));
        files.save(&operator);
        assert_eq!(files.unsaved().len(), 2);
        std::fs::remove_file(&state).unwrap();
        files.save(&operator);
        assert!(files.unsaved().is_empty());
        assert_eq!(OperatorFiles::read(&state).unwrap().operator(), operator);
        // What is removed is removed from the files.
        files.save(&Operator::default());
        let read = OperatorFiles::read(&state).unwrap();
        assert_eq!(read.operator(), Operator::default());
    }

    #[test]
    fn a_damaged_file_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("weights.json"), "[").unwrap();
        let error = OperatorFiles::read(folder.path()).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("weights.json") && text.contains("delete the file"),
            "{text}"
        );
    }
}
