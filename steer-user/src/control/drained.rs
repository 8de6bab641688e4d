//! What the operator said, kept over restarts.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::durable;

/// Names of drained backends, in a file of their own.
#[derive(Clone, Debug)]
pub(super) struct Drained {
    path: PathBuf,
    names: BTreeSet<String>,
}

impl Drained {
    /// Reads the file. Without one, nothing is drained.
    pub(super) fn load(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("drained.json");
        let names = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{}: not a list of names; remove it to drain none",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
        };
        Ok(Self { path, names })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }

    /// Writes the file and then remembers; a crash leaves the old one or the new one.
    pub(super) fn set(&mut self, name: &str, drained: bool) -> Result<()> {
        let mut names = self.names.clone();
        if drained {
            names.insert(name.to_owned());
        } else {
            names.remove(name);
        }
        let write = || -> io::Result<()> {
            if let Some(folder) = self.path.parent() {
                durable::folder(folder)?;
            }
            durable::replace(&self.path, &serde_json::to_vec(&names)?)
        };
        write().with_context(|| format!("{}: cannot be written", self.path.display()))?;
        self.names = names;
        Ok(())
    }
}
