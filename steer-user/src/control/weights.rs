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
}

impl Weights {
    /// Reads the file. Without one, capacities count.
    pub(super) fn load(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("weights.json");
        let weights = said::read(&path, "have capacities count")?;
        Ok(Self { path, weights })
    }

    /// The weight that a backend was given.
    pub(super) fn of(&self, name: &str) -> Option<u32> {
        self.weights.get(name).copied()
    }

    /// All that were given.
    pub(super) fn all(&self) -> &BTreeMap<String, u32> {
        &self.weights
    }

    /// Writes the file and then remembers; a crash leaves the old one or the new one.
    pub(super) fn set(&mut self, name: &str, weight: Option<u32>) -> Result<()> {
        let mut weights = self.weights.clone();
        match weight {
            Some(weight) => weights.insert(name.to_owned(), weight),
            None => weights.remove(name),
        };
        said::write(&self.path, &weights)?;
        self.weights = weights;
        Ok(())
    }
}
