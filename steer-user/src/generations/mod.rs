//! Configurations that were applied, numbered and kept in the state directory: what can be gone
//! back to, and what a daemon begins with.

mod standing;
mod start;
mod store;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

pub use self::standing::{Outcome, Standing, Trial};
pub use self::start::{Started, start};
pub use self::store::Store;
use crate::config::{ConfigError, Document};

/// A configuration that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Generation {
    /// Its number, from 1; never given twice.
    pub number: u64,
    /// When it was made.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub made: SystemTime,
    /// Who made it.
    pub by: String,
    /// SHA-256 of the document.
    pub fingerprint: String,
    /// What it says, variables unexpanded.
    pub document: Document,
}

/// A generation in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// When it was made.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub made: SystemTime,
    /// Who made it.
    pub by: String,
    /// The main file that it was read from.
    pub file: PathBuf,
    /// SHA-256 of the document.
    pub fingerprint: String,
    /// Outcome of its application.
    #[serde(default)]
    pub outcome: Outcome,
    /// What is wrong with it: it cannot be gone back to.
    pub damage: Option<String>,
}

/// All that is kept, and what counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct History {
    /// Generations, the newest first.
    pub generations: Vec<Entry>,
    /// Which of them counts.
    pub standing: Option<Standing>,
}

/// Why the state directory did not do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file could not be read or written.
    #[error("{}: {source}; {todo}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        todo: &'static str,
    },
    /// A file is there and makes no sense.
    #[error("{}: {what}; {todo}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        todo: &'static str,
    },
    /// The file that says which generation counts is gone.
    #[error("{}: it is gone; the standing before it is taken", .0.display())]
    Lost(PathBuf),
    /// There is no such generation.
    #[error("generation {0} is not kept; `steer config history` lists those that are")]
    Unknown(u64),
}

/// Why there is nothing to begin with.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file is wrong, and there is no generation that could be taken.
    #[error(transparent)]
    Config(#[from] ConfigError),
}
