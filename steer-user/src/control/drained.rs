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
    /// Reason why the file is not up to date.
    unsaved: Option<String>,
}

impl Drained {
    /// Reads the file. Without one, nothing is drained.
    pub(super) fn load(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("drained.json");
        let drains = said::read(&path, "drain none")?;
        Ok(Self {
            path,
            drains,
            unsaved: None,
        })
    }

    /// What the operator wants of a backend, if it drains.
    pub(super) fn of(&self, name: &str) -> Option<Drain> {
        self.drains.get(name).copied()
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<String> {
        self.drains.keys().cloned().collect()
    }

    /// Remembers, and writes the file; a crash leaves the old one or the new one. Where it cannot be written, as
    /// on a full disk, the drain counts all the same until a restart, and [`Self::save`] tries again.
    pub(super) fn set(&mut self, name: &str, drain: Option<Drain>) {
        match drain {
            Some(drain) => self.drains.insert(name.to_owned(), drain),
            None => self.drains.remove(name),
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
        let written = said::write(&self.path, &self.drains);
        said::report(&mut self.unsaved, "drains", written);
    }
}
