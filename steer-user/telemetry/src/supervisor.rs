//! Notifications of the service manager (sd_notify(3)), if there is one.

use std::time::Duration;

use libsystemd::daemon::{NotifyState, notify, watchdog_enabled};
use tracing::warn;

/// Link to the service manager that started this process, if any.
#[derive(Debug)]
pub struct Supervisor {
    watchdog: bool,
    last: String,
}

impl Supervisor {
    /// Creates the link named by the environment. `every` is the interval of [`Self::alive`]; a
    /// watchdog shorter than two intervals causes a warning.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        let watchdog = watchdog_enabled(false);
        if let Some(patience) = watchdog
            && patience < 2 * every
        {
            warn!(
                watchdog_s = patience.as_secs_f64(),
                interval_s = every.as_secs_f64(),
                "WatchdogSec= is too short: the service manager will kill the daemon without reason"
            );
        }
        Self {
            watchdog: watchdog.is_some(),
            last: String::new(),
        }
    }

    /// Notifies that the node is ready, with its status.
    pub fn ready(&mut self, status: String) {
        notify_supervisor(&[NotifyState::Ready, NotifyState::Status(status.clone())]);
        self.last = status;
    }

    /// Notifies that the loop is alive, with its status if changed.
    pub fn alive(&mut self, status: String) {
        if self.watchdog {
            notify_supervisor(&[NotifyState::Watchdog]);
        }
        if status != self.last {
            notify_supervisor(&[NotifyState::Status(status.clone())]);
            self.last = status;
        }
    }

    /// Notifies that the process is stopping.
    pub fn stopping(&mut self) {
        notify_supervisor(&[
            NotifyState::Stopping,
            NotifyState::Status("stopping".to_owned()),
        ]);
    }
}

fn notify_supervisor(what: &[NotifyState]) {
    if let Err(error) = notify(false, what) {
        warn!(%error, "the service manager does not listen");
    }
}
