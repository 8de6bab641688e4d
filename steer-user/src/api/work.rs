//! Work that takes long: on a thread of its own, one at a time for those who may only see and one for those who may
//! change, for as long as the client waits, and no longer than a limit.

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

use super::{Role, server::Refusal};

/// One at a time, so that whoever may only see keeps one processor busy at most, and nobody else waiting.
static READERS: Semaphore = Semaphore::const_new(1);
static CHANGERS: Semaphore = Semaphore::const_new(1);
static KEPT: Semaphore = Semaphore::const_new(1);
/// How long reading a document may take.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// As long, for those who may change things.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// A place to work in. Work in it ends soon after the value is dropped, as it is with the client's connection.
pub(super) struct Place {
    permit: Arc<SemaphorePermit<'static>>,
    gone: Arc<AtomicBool>,
    until: Instant,
}

/// Says when to give up.
pub(super) struct Stop {
    gone: Arc<AtomicBool>,
    until: Instant,
}

impl Stop {
    pub(super) fn is_over(&self) -> bool {
        self.gone.load(Ordering::Relaxed) || Instant::now() >= self.until
    }
}

impl Place {
    /// Waits for a place to read a document in.
    pub(super) async fn of(role: Role) -> Result<Self, Refusal> {
        match role {
            Role::Read => Self::among(&READERS, READ_LIMIT).await,
            Role::Operate | Role::Admin => Self::among(&CHANGERS, CHANGE_LIMIT).await,
        }
    }

    /// Waits for a place to look at generations that are kept, which takes less.
    pub(super) async fn for_kept() -> Result<Self, Refusal> {
        Self::among(&KEPT, READ_LIMIT).await
    }

    async fn among(places: &'static Semaphore, limit: Duration) -> Result<Self, Refusal> {
        let permit = places.acquire().await.map_err(|_| failed("no place"))?;
        Ok(Self {
            permit: Arc::new(permit),
            gone: Arc::default(),
            until: Instant::now() + limit,
        })
    }

    /// Works on a thread. The place is taken until that ends, be anybody there to hear of it or not.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Stop) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let permit = Arc::clone(&self.permit);
        let stop = Stop {
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

impl Drop for Place {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

fn failed(why: &str) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, why.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// The second one waits until the first one's thread has ended, which it does because its client left.
    #[tokio::test]
    async fn work_ends_with_its_client_and_then_the_next_begins() {
        let (begun, begins) = oneshot::channel();
        let first = tokio::spawn(async move {
            let Ok(place) = Place::of(Role::Read).await else {
                panic!("no place");
            };
            let worked = place.work(|stop| {
                begun.send(()).unwrap();
                while !stop.is_over() {
                    std::thread::yield_now();
                }
            });
            worked.await.is_ok()
        });
        begins.await.unwrap();
        // Those who may change things do not wait for those who look.
        assert!(Place::of(Role::Admin).await.is_ok());
        assert!(READERS.try_acquire().is_err());
        first.abort();
        assert!(Place::of(Role::Read).await.is_ok());
    }
}
