//! What the operator said of backends' draining, kept over restarts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::said;

/// What the operator wants of a backend that drains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// When its open flows are ended: reset or moved, as their services say. Without it they may
    /// take as long as they like.
    #[serde(
        default,
        with = "humantime_serde",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<SystemTime>,
}

/// Drained backends, in a file of their own.
#[derive(Clone, Debug)]
pub(super) struct Drained {
    path: PathBuf,
    drains: BTreeMap<String, Drain>,
}

impl Drained {
    /// Reads the file. Without one, nothing is drained.
    pub(super) fn load(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("drained.json");
        let drains = said::read(&path, "drain none")?;
        Ok(Self { path, drains })
    }

    /// What the operator wants of a backend, if it drains.
    pub(super) fn of(&self, name: &str) -> Option<Drain> {
        self.drains.get(name).copied()
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<String> {
        self.drains.keys().cloned().collect()
    }

    /// Writes the file and then remembers; a crash leaves the old one or the new one.
    pub(super) fn set(&mut self, name: &str, drain: Option<Drain>) -> Result<()> {
        let mut drains = self.drains.clone();
        match drain {
            Some(drain) => drains.insert(name.to_owned(), drain),
            None => drains.remove(name),
        };
        said::write(&self.path, &drains)?;
        self.drains = drains;
        Ok(())
    }
}
