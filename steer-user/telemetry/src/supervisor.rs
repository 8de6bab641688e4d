//! What the service manager is told (sd_notify(3)). Without one, nothing is said.

use std::time::Duration;

use libsystemd::daemon::{NotifyState, notify, watchdog_enabled};
use tracing::warn;

/// The service manager that started this process, if one did and listens.
#[derive(Debug)]
pub struct Supervisor {
    watchdog: bool,
    last: String,
}

impl Supervisor {
    /// The one that the environment names. `every` is how often [`Self::alive`] will be called; a
    /// watchdog that is less patient than two of them is warned about.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        let watchdog = watchdog_enabled(false);
        if let Some(patience) = watchdog
            && patience < 2 * every
        {
            warn!(
                ?patience,
                ?every,
                "WatchdogSec= is too short: the daemon will be killed for nothing"
            );
        }
        Self {
            watchdog: watchdog.is_some(),
            last: String::new(),
        }
    }

    /// Says that the node steers, and how it is.
    pub fn ready(&mut self, status: String) {
        tell(&[NotifyState::Ready, NotifyState::Status(status.clone())]);
        self.last = status;
    }

    /// Says that the loop goes round, and how the node is, if that changed.
    pub fn alive(&mut self, status: String) {
        if self.watchdog {
            tell(&[NotifyState::Watchdog]);
        }
        if status != self.last {
            tell(&[NotifyState::Status(status.clone())]);
            self.last = status;
        }
    }

    /// Says that the end is near.
    pub fn stopping(&mut self) {
        tell(&[
            NotifyState::Stopping,
            NotifyState::Status("stopping".to_owned()),
        ]);
    }
}

fn tell(what: &[NotifyState]) {
    if let Err(error) = notify(false, what) {
        warn!(%error, "the service manager does not listen");
    }
}
