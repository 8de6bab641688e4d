//! Commands of the operator that cannot be obeyed.

use crate::config::MAX_CAPACITY;

/// Reason why a command of the operator is refused.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such backend is configured.
    #[error("no backend is called \"{0}\"; `steer status` names them")]
    Unknown(String),
    /// The weight is out of range.
    #[error(
        "a weight is from 1 to {MAX_CAPACITY}; `steer backend drain` is for a backend that shall get \
         nothing"
    )]
    Weight,
    /// The data path could not be written.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}
