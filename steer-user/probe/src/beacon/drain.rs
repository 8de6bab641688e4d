//! A file that says by being there that the backend drains: what stops an engine can make it first.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const EVERY: Duration = Duration::from_millis(100);

/// Looks for the file now and then; ends when dropped.
#[derive(Debug)]
pub(super) struct Follow {
    there: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follow {
    pub(super) fn start(file: PathBuf) -> Self {
        let (tx, there) = watch::channel(file.exists());
        let task = tokio::spawn(async move {
            loop {
                sleep(EVERY).await;
                // What can't be looked at stays as it was.
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

    pub(super) fn is_there(&self) -> bool {
        *self.there.borrow()
    }
}
