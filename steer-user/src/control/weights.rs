//! Weights that the operator gave backends in place of their capacity, kept over restarts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::said;

/// Weights by backend, in a file of their own.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    path: PathBuf,
    weights: BTreeMap<String, u32>,
    /// Reason why the file is not up to date.
    unsaved: Option<String>,
}

impl Weights {
    /// Reads the file. Without one, capacities count.
    pub(super) fn load(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("weights.json");
        let weights = said::read(&path, "have capacities count")?;
        Ok(Self {
            path,
            weights,
            unsaved: None,
        })
    }

    /// The weight that a backend was given.
    pub(super) fn of(&self, name: &str) -> Option<u32> {
        self.weights.get(name).copied()
    }

    /// All that were given.
    pub(super) fn all(&self) -> &BTreeMap<String, u32> {
        &self.weights
    }

    /// Remembers, and writes the file; a crash leaves the old one or the new one. Where it cannot be written, as
    /// on a full disk, the weight counts all the same until a restart, and [`Self::save`] tries again.
    pub(super) fn set(&mut self, name: &str, weight: Option<u32>) {
        match weight {
            Some(weight) => self.weights.insert(name.to_owned(), weight),
            None => self.weights.remove(name),
        };
        self.write();
    }

    /// Writes what could not be written before.
    pub(super) fn save(&mut self) {
        if self.unsaved.is_some() {
            self.write();
        }
    }

    /// Reason why the file is not up to date.
    pub(super) fn unsaved(&self) -> Option<&str> {
        self.unsaved.as_deref()
    }

    fn write(&mut self) {
        let written = said::write(&self.path, &self.weights);
        said::report(&mut self.unsaved, "weights", written);
    }
}
