//! The generation that a pending one is reverted to.

use std::sync::Arc;

use steer_core::{config::Config, generations::Store};
use tracing::error;

use super::{Fallback, Prepared};

impl Fallback {
    pub(crate) fn from_prepared(number: u64, prepared: Prepared) -> Self {
        Self {
            number,
            document: prepared.document,
            fingerprint: prepared.fingerprint,
            config: prepared.config,
            changes: prepared.changes,
            file: prepared.file,
        }
    }

    /// Reads the generation that a pending one of an earlier daemon is reverted to.
    pub(crate) fn read(
        store: &Store,
        is_pending: bool,
        state_is_given: bool,
        running: &Config,
    ) -> Option<Self> {
        let confirmed = store.active().filter(|_| is_pending)?.confirmed;
        let found = store.generation(confirmed).map_err(|e| e.to_string());
        let read = found.and_then(|found| match found.document.config() {
            Ok(config) => Ok((found, config)),
            Err(error) => Err(error.to_string()),
        });
        match read {
            Ok((found, mut config)) => {
                if state_is_given {
                    config.node.state_dir.clone_from(&running.node.state_dir);
                }
                Some(Self {
                    number: confirmed,
                    document: Arc::new(found.document),
                    fingerprint: found.fingerprint,
                    config,
                    changes: Vec::new(),
                    file: None,
                })
            }
            Err(error) => {
                error!(generation = confirmed, error, "cannot be gone back to");
                None
            }
        }
    }
}
