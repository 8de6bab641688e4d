//! Drain file: its existence means that the backend drains, so a script can create it before it
//! stops an engine.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Periodic check of the file, which ends when dropped.
#[derive(Debug)]
pub(super) struct DrainSwitch {
    there: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for DrainSwitch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl DrainSwitch {
    pub(super) fn start(file: PathBuf) -> Self {
        let (tx, there) = watch::channel(file.exists());
        let task = tokio::spawn(async move {
            loop {
                sleep(POLL_INTERVAL).await;
                // If the check fails, the state stays.
                let Ok(now) = tokio::fs::try_exists(&file).await else {
                    continue;
                };
                if tx.send_replace(now) != now {
                    tracing::info!(file = %file.display(), draining = now, "drain file");
                }
            }
        });
        Self { there, task }
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.there.borrow()
    }
}
