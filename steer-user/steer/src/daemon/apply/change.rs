//! Changes of the configuration: apply, confirm, roll back, and revert what nobody confirmed.

use std::time::{Duration, Instant, SystemTime};

use humantime_serde::re::humantime::format_duration;
use steer_core::{
    control::DryRun,
    generations::{ActiveGeneration, PendingConfirmation},
    journal::{Event, ReplanCause},
};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::{Applied, ApplyError, Configure, Fallback, Prepared, ReadOptions};
use crate::daemon::event_loop::Daemon;

/// Pause after a revert that failed.
const RETRY: Duration = Duration::from_secs(10);

impl Daemon {
    pub(crate) fn configure(&mut self, ask: Configure) {
        match ask {
            Configure::RunningConfig(reply) => drop(reply.send(self.running_config())),
            Configure::DryRun(reply) => {
                drop(reply.send(DryRun::from_controller(&self.controller, Instant::now())));
            }
            Configure::Apply {
                prepared,
                within,
                by,
                reply,
            } => {
                let done = self.apply(*prepared, within, ReplanCause::Apply, &by);
                if let Err(error) = &done {
                    warn!(by, %error, "configuration not applied, the running one goes on");
                }
                let _ = reply.send(done);
            }
            Configure::Confirm { by, reply } => drop(reply.send(self.confirm(&by))),
            Configure::Rollback {
                to,
                prepared,
                by,
                reply,
            } => {
                let done = prepared.check(&self.in_use).and_then(|()| {
                    self.roll_back(
                        Fallback::from_prepared(to, *prepared),
                        ReplanCause::Rollback,
                        &by,
                    )
                });
                if let Err(error) = &done {
                    warn!(by, %error, "not rolled back");
                }
                let _ = reply.send(done);
            }
        }
    }

    /// Reads the file again on a thread of its own; [`Self::reloaded`] gets what it says.
    pub(crate) fn reload(&mut self) {
        if self.reload.is_running {
            self.reload.again = true;
            return;
        }
        self.reload.is_running = true;
        let running = self.running_config();
        let done = self.reload.done.clone();
        spawn_blocking(move || {
            let read = running.prepare_file(ReadOptions {
                may_expand: true,
                stop: &|| false,
            });
            // Nobody waits for it when the daemon ends.
            let _ = done.blocking_send(read);
        });
    }

    /// Applies the file that was read again, if it says something else.
    pub(crate) fn reloaded(&mut self, read: Result<Prepared, ApplyError>) {
        self.reload.is_running = false;
        let done =
            read.and_then(|prepared| self.apply(prepared, None, ReplanCause::Reload, "SIGHUP"));
        let again = std::mem::take(&mut self.reload.again);
        match done {
            Ok(_) => {}
            Err(ApplyError::Changed) => return self.reload(),
            Err(error) => {
                error!("configuration not applied, the running one goes on: {error}");
            }
        }
        if again {
            self.reload();
        }
    }

    fn apply(
        &mut self,
        prepared: Prepared,
        within: Option<Duration>,
        why: ReplanCause,
        by: &str,
    ) -> Result<Applied, ApplyError> {
        let standing = self.store.active().cloned();
        let trial = standing.as_ref().and_then(|s| s.pending.as_ref());
        if let (Some(trial), Some(deadline)) = (trial, self.in_use.deadline) {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Duration::from_secs(left.as_secs());
            return Err(ApplyError::Trial {
                number: trial.number,
                left: format_duration(left).to_string(),
            });
        }
        prepared.check(&self.in_use)?;
        let Prepared {
            document,
            fingerprint,
            config,
            changes,
            file,
            ..
        } = prepared;
        if self.in_use.number.is_some() && fingerprint == self.in_use.fingerprint {
            self.put_to_work(config).map_err(ApplyError::Failed)?;
            info!(
                by,
                generation = self.in_use.number,
                "configuration read again"
            );
            return Ok(Applied {
                generation: self.in_use.number,
                unchanged: true,
                until: None,
                changes,
                warning: self.note_file(standing, file),
            });
        }
        if within.is_some() && self.in_use.number.is_none() {
            return Err(ApplyError::NoGeneration);
        }
        let file = file_now(file, standing.as_ref());
        let now = SystemTime::now();
        let number = self.store.add_shared(&document, &fingerprint, by, now)?;
        let trial = within.zip(self.in_use.number);
        let next = match trial {
            Some((window, confirmed)) => ActiveGeneration {
                pending: Some(PendingConfirmation {
                    number,
                    until: now + window,
                    window,
                }),
                ..ActiveGeneration::confirmed(confirmed, file)
            },
            None => ActiveGeneration::confirmed(number, file),
        };
        if let Err(error) = self.store.set_active(next.clone()) {
            self.store.discard(number);
            return Err(error.into());
        }
        let until = next.pending.as_ref().map(|trial| trial.until);
        let told = (Some(number), fingerprint.clone());
        self.notify((why, by), told, until);
        let before = self.controller.view().config().clone();
        if let Err(error) = self.put_to_work(config) {
            self.tell_failed(by);
            if let Err(error) = self.store.restore_active(standing) {
                error!(%error, generation = number, "a restart would take up what failed");
            }
            self.store.discard(number);
            return Err(ApplyError::Failed(error));
        }
        let document = std::mem::replace(&mut self.in_use.document, document);
        let fingerprint = std::mem::replace(&mut self.in_use.fingerprint, fingerprint);
        self.in_use.number = Some(number);
        self.in_use.unsaved = None;
        self.in_use.fallback = trial.map(|(_, confirmed)| Fallback {
            number: confirmed,
            document,
            fingerprint,
            config: before,
            changes: Vec::new(),
            file: None,
        });
        self.in_use.deadline = trial.map(|(window, _)| Instant::now() + window);
        self.store.prune();
        let confirm_within = within.map(|within| format_duration(within).to_string());
        info!(
            generation = number,
            by, confirm_within, "configuration applied"
        );
        Ok(Applied {
            generation: Some(number),
            unchanged: false,
            until,
            changes,
            warning: None,
        })
    }

    fn confirm(&mut self, by: &str) -> Result<u64, ApplyError> {
        let standing = self.store.active().cloned();
        let Some((trial, standing)) = standing.and_then(|s| Some((s.pending.clone()?, s))) else {
            return Err(ApplyError::NoTrial);
        };
        if self.in_use.deadline.is_none() {
            return Err(ApplyError::NoTrial);
        }
        let number = trial.number;
        self.store
            .set_active(ActiveGeneration::confirmed(number, standing.file))?;
        self.store.prune();
        self.in_use.deadline = None;
        self.in_use.fallback = None;
        let by = by.to_owned();
        info!(generation = number, by, "configuration confirmed");
        self.controller.recorder.record(Event::Confirmed {
            by,
            generation: number,
        });
        Ok(number)
    }

    /// Goes back. The data path comes first: it must not depend on there being room on a disk.
    fn roll_back(
        &mut self,
        target: Fallback,
        why: ReplanCause,
        by: &str,
    ) -> Result<Applied, ApplyError> {
        let standing = self.store.active().cloned();
        let Fallback {
            number,
            document,
            fingerprint,
            config,
            changes,
            file,
        } = target;
        let before = self.in_use.number;
        let told = (Some(number), fingerprint.clone());
        self.notify((why, by), told, None);
        if let Err(error) = self.put_to_work(config) {
            self.tell_failed(by);
            return Err(ApplyError::Failed(error));
        }
        self.in_use.document = document;
        self.in_use.fingerprint = fingerprint;
        self.in_use.number = Some(number);
        self.in_use.deadline = None;
        self.in_use.fallback = None;
        // A file that was changed while its generation was on trial still has to be taken up.
        let file = match (why, &standing) {
            (ReplanCause::Unconfirmed, Some(standing)) => standing.file.clone(),
            _ => file_now(file, standing.as_ref()),
        };
        self.in_use.unsaved = Some((ActiveGeneration::confirmed(number, file), String::new()));
        let warning = self.save();
        info!(generation = number, from = before, by, "rolled back");
        Ok(Applied {
            generation: Some(number),
            unchanged: false,
            until: None,
            changes,
            warning,
        })
    }

    /// Writes what could not be written before.
    pub(crate) fn save(&mut self) -> Option<String> {
        let (standing, _) = self.in_use.unsaved.clone()?;
        match self.store.set_active(standing.clone()) {
            Ok(()) => {
                self.in_use.unsaved = None;
                self.store.prune();
                None
            }
            Err(error) => {
                let why = format!(
                    "generation {} is in use, but a restart would not know: {error}",
                    self.in_use.number.unwrap_or_default()
                );
                self.in_use.unsaved = Some((standing, why.clone()));
                Some(why)
            }
        }
    }

    /// Takes back a generation that nobody confirmed in time.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.in_use.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let Some(target) = self.in_use.fallback.clone() else {
            self.in_use.deadline = Some(now + RETRY);
            error!("nobody confirmed the configuration, and the one before it cannot be read");
            return;
        };
        match self.roll_back(target, ReplanCause::Unconfirmed, "the confirm window") {
            Ok(Applied { warning, .. }) => {
                warn!(
                    generation = self.in_use.number,
                    warning, "nobody confirmed the configuration: back to the one before"
                );
            }
            Err(error) => {
                self.in_use.deadline = Some(now + RETRY);
                error!(%error, "nobody confirmed the configuration, and it cannot be taken back");
            }
        }
    }

    /// Remembers that the file says what is in use.
    fn note_file(
        &mut self,
        standing: Option<ActiveGeneration>,
        file: Option<String>,
    ) -> Option<String> {
        let standing = standing?;
        let file = file_now(file, Some(&standing));
        if file == standing.file {
            return None;
        }
        let stood = self.store.set_active(ActiveGeneration { file, ..standing });
        stood.err().map(|error| error.to_string())
    }

    /// Tells the journal what counts from now on.
    fn notify(
        &mut self,
        (why, by): (ReplanCause, &str),
        (generation, fingerprint): (Option<u64>, String),
        until: Option<SystemTime>,
    ) {
        let operator = self.controller.view().operator().clone();
        let event = Event::Configured {
            why,
            by: by.to_owned(),
            generation,
            fingerprint,
            until,
            drained: operator.drains.keys().cloned().collect(),
            weights: operator.weights.clone(),
        };
        self.controller.recorder.configured(event);
    }

    /// Tells the journal that what counted before counts again.
    fn tell_failed(&mut self, by: &str) {
        let before = (self.in_use.number, self.in_use.document.fingerprint());
        self.notify((ReplanCause::Failed, by), before, None);
    }
}

/// Fingerprint of the daemon's own file as it was read; what it was before if it could not be.
fn file_now(read: Option<String>, standing: Option<&ActiveGeneration>) -> String {
    let known = || standing.map_or_else(String::new, |s| s.file.clone());
    read.unwrap_or_else(known)
}
