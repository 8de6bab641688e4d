//! Changes of the configuration of a running daemon: commands, and their results.

mod change;
mod fallback;
mod prepare;
mod put_to_work;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use steer_core::{
    config::{Config, ConfigError, Document},
    control::{DryRun, Preview},
    generations::{ActiveGeneration, StateError},
};
use tokio::sync::{mpsc, oneshot};

use crate::preflight::Finding;

pub use self::prepare::{Prepared, ReadOptions, RunningConfig};

/// Sender of the answer.
pub type Reply<T> = oneshot::Sender<Result<T, ApplyError>>;

/// Commands about the configuration.
#[derive(Debug)]
pub enum Configure {
    /// Get the configuration that documents are compared with.
    RunningConfig(oneshot::Sender<RunningConfig>),
    /// Get a copy of the loop's state, to compute what another configuration would move.
    DryRun(oneshot::Sender<DryRun>),
    /// Apply another one.
    Apply {
        /// The configuration.
        prepared: Box<Prepared>,
        /// Confirm window, if a confirmation is wanted.
        within: Option<Duration>,
        /// User who asks.
        by: String,
        /// Sender of the answer.
        reply: Reply<Applied>,
    },
    /// Confirm the pending generation.
    Confirm {
        /// User who asks.
        by: String,
        /// Sender of the answer.
        reply: Reply<u64>,
    },
    /// Go back to a generation.
    Rollback {
        /// Its number.
        to: u64,
        /// The configuration.
        prepared: Box<Prepared>,
        /// User who asks.
        by: String,
        /// Sender of the answer.
        reply: Reply<Applied>,
    },
}

/// Changes by another configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Diff {
    /// The generation in use, if there is one.
    pub from: Option<u64>,
    /// Keys that differ, a line each.
    pub changes: Vec<String>,
    /// Effects on services.
    pub preview: Preview,
    /// Findings where it does not fit the node.
    pub findings: Vec<Finding>,
}

/// Result of an apply or a rollback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Applied {
    /// The generation in use now.
    pub generation: Option<u64>,
    /// Whether it was in use before: files that it names were read again, and that is all.
    pub unchanged: bool,
    /// Time at which it is reverted unless somebody confirms it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<String>")]
    pub until: Option<SystemTime>,
    /// Keys that differ from what was in use, a line each.
    pub changes: Vec<String>,
    /// Warning of what went wrong, with what to do.
    pub warning: Option<String>,
}

/// Reason why the configuration did not change.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The document is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// The state directory did not do.
    #[error("nothing was changed: {0}")]
    State(#[from] StateError),
    /// A generation is pending confirmation.
    #[error(
        "generation {number} is on trial for another {left}; `steer config confirm` or \
         `steer config rollback` first"
    )]
    Trial {
        /// Its number.
        number: u64,
        /// Time left of its confirm window.
        left: String,
    },
    /// No generation is pending.
    #[error("no generation is on trial; `steer config history` lists them")]
    NoTrial,
    /// The generation is in use.
    #[error("generation {0} is in use; `steer config history` lists the others")]
    Current(u64),
    /// Nothing could be gone back to if nobody confirmed.
    #[error(
        "what runs is no generation that could be gone back to: the state directory did not take \
         it; apply without a confirm window"
    )]
    NoGeneration,
    /// No older generation is kept.
    #[error("no older generation is kept; `steer config history` lists them")]
    Oldest,
    /// Something that a running daemon cannot change.
    #[error(
        "node.{key} cannot change from {from} to {to} while the daemon runs; change the file and \
         restart it"
    )]
    Fixed {
        /// The key.
        key: &'static str,
        /// Its value.
        from: String,
        /// The value that it cannot have.
        to: String,
    },
    /// Another seed would move all flows.
    #[error(
        "node.flow_seed_file has another seed than the maps in use, and with it all open connections would go to other \
         backends at once; change the file, stop the daemon, `steer detach`, and start it again"
    )]
    FlowSeed,
    /// Another one was put to work while it was read.
    #[error("nothing was changed: another configuration was put to work meanwhile; try again")]
    Changed,
    /// Variables are not for this role.
    #[error(
        "this role expands only variables that the configuration in use has at the same key, and it does not have \
         these: {0}; write values instead, or ask somebody with the role admin"
    )]
    Variables(String),
    /// Files are not for this role.
    #[error(
        "this role names only files that the configuration in use names, and {0} is none of them; ask somebody with \
         the role admin"
    )]
    ForeignFile(PathBuf),
    /// A table that a running daemon would have to make larger.
    #[error(
        "{wants} flows are wanted by limits.{key}, and this daemon has made a table of {has}; change the \
         file and restart the daemon: flows are copied to the larger table (addresses of [nat] where \
         there were none make the nat table larger, too)"
    )]
    TooSmall {
        /// The key.
        key: &'static str,
        /// Entries that the table has room for.
        has: u32,
        /// Entries that it has to have room for.
        wants: u32,
    },
    /// The configuration could not be applied.
    #[error("nothing was changed: {0:#}")]
    Failed(anyhow::Error),
}

/// Generation in use, and the one that a pending one is reverted to.
#[derive(Debug)]
pub(crate) struct InUse {
    pub(crate) document: Arc<Document>,
    pub(crate) fingerprint: String,
    pub(crate) number: Option<u64>,
    /// The generation that the pending one is reverted to.
    pub(crate) fallback: Option<Fallback>,
    /// Time at which the pending one is reverted.
    pub(crate) deadline: Option<Instant>,
    /// A standing that could not be written yet, and why.
    pub(crate) unsaved: Option<(ActiveGeneration, String)>,
}

/// A generation to go back to, as it was read: the confirmed one while another one has to be confirmed, so that
/// going back does not wait for reading.
#[derive(Clone, Debug)]
pub(crate) struct Fallback {
    pub(crate) number: u64,
    pub(crate) document: Arc<Document>,
    pub(crate) fingerprint: String,
    pub(crate) config: Config,
    /// Keys that differ from what is in use.
    pub(crate) changes: Vec<String>,
    /// Fingerprint of the daemon's own file, if it could be read.
    pub(crate) file: Option<String>,
}

/// Reading of the file again, one at a time.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) is_running: bool,
    /// Set when it was asked for while it was running.
    pub(crate) again: bool,
    pub(crate) done: mpsc::Sender<Result<Prepared, ApplyError>>,
}

impl Reload {
    pub(crate) fn new(done: mpsc::Sender<Result<Prepared, ApplyError>>) -> Self {
        Self {
            is_running: false,
            again: false,
            done,
        }
    }
}
