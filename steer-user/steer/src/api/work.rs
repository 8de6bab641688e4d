//! Long-running work, each on a thread of its own: one at a time for readers and one for users who
//! may change things, while the client waits, and with a time limit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::spawn_blocking,
};

use super::{Role, server::ApiError};

/// Slot for users with the role `read`: with one slot they keep at most one processor busy.
static READ_SLOT: Semaphore = Semaphore::const_new(1);
static CHANGE_SLOT: Semaphore = Semaphore::const_new(1);
static HISTORY_SLOT: Semaphore = Semaphore::const_new(1);
/// Time limit for reading a document.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// The same limit for users who may change things.
const CHANGE_LIMIT: Duration = Duration::from_secs(120);

/// Permission to work on one document. The work ends soon after this value is dropped, which
/// happens with the client's connection.
pub(super) struct WorkSlot {
    permit: Arc<SemaphorePermit<'static>>,
    gone: Arc<AtomicBool>,
    until: Instant,
}

/// Flag that tells work to stop.
pub(super) struct Cancellation {
    gone: Arc<AtomicBool>,
    until: Instant,
}

impl Cancellation {
    pub(super) fn is_cancelled(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || Instant::now() >= self.until
    }
}

impl WorkSlot {
    /// Waits until a document of a user with this role may be read.
    pub(super) async fn acquire(role: Role) -> Result<Self, ApiError> {
        match role {
            Role::Read => Self::among(&READ_SLOT, READ_LIMIT).await,
            Role::Operate | Role::Admin => Self::among(&CHANGE_SLOT, CHANGE_LIMIT).await,
        }
    }

    /// Waits until generations may be read, which is quicker.
    pub(super) async fn for_history() -> Result<Self, ApiError> {
        Self::among(&HISTORY_SLOT, READ_LIMIT).await
    }

    async fn among(places: &'static Semaphore, limit: Duration) -> Result<Self, ApiError> {
        let permit = places
            .acquire()
            .await
            .map_err(|_| failed("the work slots are closed"))?;
        Ok(Self {
            permit: Arc::new(permit),
            gone: Arc::default(),
            until: Instant::now() + limit,
        })
    }

    /// Runs work on a thread. The slot stays occupied until it ends, even if the client is gone.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cancellation) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = Arc::clone(&self.permit);
        let stop = Cancellation {
            gone: Arc::clone(&self.gone),
            until: self.until,
        };
        let done = spawn_blocking(move || {
            let done = work(&stop);
            drop(permit);
            done
        });
        done.await.map_err(|error| failed(&error.to_string()))
    }
}

impl Drop for WorkSlot {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

fn failed(why: &str) -> ApiError {
    ApiError(StatusCode::INTERNAL_SERVER_ERROR, why.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// Checks that the second job waits for the thread of the first one, which ends because its
    /// client left.
    #[tokio::test]
    async fn work_ends_with_its_client_and_then_the_next_begins() {
        let (begun, begins) = oneshot::channel();
        let first = tokio::spawn(async move {
            let Ok(place) = WorkSlot::acquire(Role::Read).await else {
                panic!("the work slots are closed");
            };
            let worked = place.work(|stop| {
                begun.send(()).unwrap();
                while !stop.is_cancelled() {
                    std::thread::yield_now();
                }
            });
            worked.await.is_ok()
        });
        begins.await.unwrap();
        // Users who may change things do not wait for readers.
        assert!(WorkSlot::acquire(Role::Admin).await.is_ok());
        assert!(READ_SLOT.try_acquire().is_err());
        first.abort();
        assert!(WorkSlot::acquire(Role::Read).await.is_ok());
    }
}
