//! Generations: applied configurations, numbered and kept in the state directory, for rollback and
//! for the start of a daemon.

mod active;
mod start;
mod store;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

pub use self::active::{ActiveGeneration, Outcome, PendingConfirmation};
pub use self::start::{Started, start};
pub use self::store::Store;
use crate::config::{ConfigError, Document};

/// An applied configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Generation {
    /// Number, from 1; never reused.
    pub number: u64,
    /// Time of creation.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub made: SystemTime,
    /// User who created it.
    pub by: String,
    /// SHA-256 of the document.
    pub fingerprint: String,
    /// Document, with variables unexpanded.
    pub document: Document,
}

/// A generation in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Entry {
    /// Number.
    pub number: u64,
    /// Time of creation.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub made: SystemTime,
    /// User who created it.
    pub by: String,
    /// Main file it was read from.
    pub file: PathBuf,
    /// SHA-256 of the document.
    pub fingerprint: String,
    /// Outcome of its application.
    #[serde(default)]
    pub outcome: Outcome,
    /// Damage that prevents a rollback to it.
    pub damage: Option<String>,
}

/// All stored generations, and which of them is active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct History {
    /// Generations, newest first.
    pub generations: Vec<Entry>,
    /// Active and pending generation.
    pub standing: Option<ActiveGeneration>,
}

/// Error of the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file could not be read or written.
    #[error("{}: {cause}; {todo}", path.display())]
    Io {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the system.
        cause: std::io::Error,
        /// Advice.
        todo: &'static str,
    },
    /// A file has invalid content.
    #[error("{}: {what}; {todo}", path.display())]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Description of the error.
        what: String,
        /// Advice.
        todo: &'static str,
    },
    /// The file that names the active generation is missing.
    #[error("{}: the file is missing; using its previous version", .0.display())]
    Lost(PathBuf),
    /// The generation does not exist.
    #[error("generation {0} is not stored; `steer config history` lists the stored ones")]
    Unknown(u64),
}

/// Reason why a daemon has no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file is invalid, and there is no usable generation.
    #[error(transparent)]
    Config(#[from] ConfigError),
}
