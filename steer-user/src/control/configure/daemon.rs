//! Changing the configuration: diff, apply, confirm, roll back, and taking back what nobody
//! confirmed.

use std::time::{Duration, Instant, SystemTime};

use humantime_serde::re::humantime::format_duration;
use tracing::{error, info, warn};

use super::{Applied, Configure, ConfigureError, Prepared};
use crate::{
    config::{Config, Document},
    control::{
        interfaces::attach,
        run::{Daemon, MEASUREMENTS, targets},
    },
    dataplane::{Sizes, interface_index},
    generations::{Generation, Standing, Trial},
    journal::{Event, Limits, Why},
    probe::mailbox,
};

/// How long a revert that failed is left alone.
const RETRY: Duration = Duration::from_secs(10);

impl Daemon {
    pub(in crate::control) fn configure(&mut self, ask: Configure) {
        match ask {
            Configure::Rehearse(document, reply) => drop(reply.send(self.prepare(&document))),
            Configure::Apply {
                document,
                within,
                by,
                reply,
            } => {
                let done = self.apply(document, within, Why::Apply, &by);
                if let Err(error) = &done {
                    warn!(by, %error, "configuration not applied, the running one goes on");
                }
                let _ = reply.send(done);
            }
            Configure::Confirm { by, reply } => drop(reply.send(self.confirm(&by))),
            Configure::Rollback { to, by, reply } => {
                let done = self.roll_back(to, Why::Rollback, &by);
                if let Err(error) = &done {
                    warn!(by, %error, "not rolled back");
                }
                let _ = reply.send(done);
            }
            Configure::History(reply) => {
                let history = self.store.history().map_err(ConfigureError::from);
                let _ = reply.send(history);
            }
            Configure::Show(number, reply) => {
                let number = number.or(self.in_use.number).unwrap_or_default();
                let found = self.store.generation(number);
                let _ = reply.send(found.map_err(ConfigureError::from));
            }
        }
    }

    /// Reads the file again, and applies it if it says something else.
    pub(in crate::control) fn reload(&mut self) {
        let document = Document::read(&self.file).map_err(ConfigureError::from);
        match document.and_then(|d| self.apply(d, None, Why::Reload, "SIGHUP")) {
            Ok(_) => {}
            Err(error) => {
                error!("configuration not applied, the running one goes on: {error}");
            }
        }
    }

    fn prepare(&self, document: &Document) -> Result<Prepared, ConfigureError> {
        Ok(Prepared {
            config: self.resolve(document)?,
            from: self.in_use.number,
            changes: document.changes_since(&self.in_use.document),
            rehearsal: self.controller.rehearsal(Instant::now()),
        })
    }

    /// What a document says, if a running daemon can do it.
    fn resolve(&self, document: &Document) -> Result<Config, ConfigureError> {
        let mut config = document.config()?;
        let old = &self.controller.config().node;
        if self.state_is_given {
            config.node.state_dir.clone_from(&old.state_dir);
        }
        for (key, from, to) in [
            ("socket", &old.socket, &config.node.socket),
            ("bpffs", &old.bpffs, &config.node.bpffs),
            ("state_dir", &old.state_dir, &config.node.state_dir),
        ] {
            if from != to {
                return Err(ConfigureError::Fixed {
                    key,
                    from: from.display().to_string(),
                    to: to.display().to_string(),
                });
            }
        }
        let wanted = Sizes::from(config.limits);
        if let Some((key, has, wants)) = self.sizes.too_small_for(&wanted) {
            return Err(ConfigureError::TooSmall { key, has, wants });
        }
        Ok(config)
    }

    fn apply(
        &mut self,
        document: Document,
        within: Option<Duration>,
        why: Why,
        by: &str,
    ) -> Result<Applied, ConfigureError> {
        let standing = self.store.standing().cloned();
        let trial = standing.as_ref().and_then(|s| s.trial.as_ref());
        if let (Some(trial), Some(deadline)) = (trial, self.in_use.deadline) {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Duration::from_secs(left.as_secs());
            return Err(ConfigureError::Trial {
                number: trial.number,
                left: format_duration(left).to_string(),
            });
        }
        let config = self.resolve(&document)?;
        let changes = document.changes_since(&self.in_use.document);
        if self.in_use.number.is_some()
            && document.fingerprint() == self.in_use.document.fingerprint()
        {
            self.put_to_work(config).map_err(ConfigureError::Failed)?;
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
                warning: self.note_file(standing),
            });
        }
        if within.is_some() && self.in_use.number.is_none() {
            return Err(ConfigureError::NoGeneration);
        }
        let file = self.file_now(standing.as_ref());
        let now = SystemTime::now();
        let made = self.store.add(document, by, now)?;
        let number = made.number;
        let trial = within.zip(self.in_use.number);
        let next = match trial {
            Some((window, confirmed)) => Standing {
                trial: Some(Trial {
                    number,
                    until: now + window,
                    window,
                }),
                ..Standing::confirmed(confirmed, file)
            },
            None => Standing::confirmed(number, file),
        };
        if let Err(error) = self.store.stand(next.clone()) {
            self.store.discard(number);
            return Err(error.into());
        }
        let until = next.trial.as_ref().map(|trial| trial.until);
        let told = (Some(number), made.fingerprint);
        self.tell((why, by), told, until);
        if let Err(error) = self.put_to_work(config) {
            self.tell_failed(by);
            if let Err(error) = self.store.undo(standing) {
                error!(%error, generation = number, "a restart would take up what failed");
            }
            self.store.discard(number);
            return Err(ConfigureError::Failed(error));
        }
        self.in_use.document = made.document;
        self.in_use.number = Some(number);
        self.in_use.unsaved = None;
        self.in_use.deadline = trial.map(|(window, _)| Instant::now() + window);
        self.store.prune();
        info!(generation = number, by, ?within, "configuration applied");
        Ok(Applied {
            generation: Some(number),
            unchanged: false,
            until,
            changes,
            warning: None,
        })
    }

    fn confirm(&mut self, by: &str) -> Result<u64, ConfigureError> {
        let standing = self.store.standing().cloned();
        let Some((trial, standing)) = standing.and_then(|s| Some((s.trial.clone()?, s))) else {
            return Err(ConfigureError::NoTrial);
        };
        if self.in_use.deadline.is_none() {
            return Err(ConfigureError::NoTrial);
        }
        let number = trial.number;
        self.store
            .stand(Standing::confirmed(number, standing.file))?;
        self.store.prune();
        self.in_use.deadline = None;
        let by = by.to_owned();
        info!(generation = number, by, "configuration confirmed");
        self.controller.recorder.tell(Event::Confirmed {
            by,
            generation: number,
        });
        Ok(number)
    }

    /// Goes back. The data path comes first: it must not depend on there being room on a disk.
    fn roll_back(
        &mut self,
        to: Option<u64>,
        why: Why,
        by: &str,
    ) -> Result<Applied, ConfigureError> {
        let standing = self.store.standing().cloned();
        let number = match (to, &standing) {
            (Some(number), _) => number,
            (None, Some(standing)) if self.in_use.deadline.is_some() => standing.confirmed,
            (None, _) => self.store.before()?.ok_or(ConfigureError::Oldest)?,
        };
        if self.in_use.number == Some(number) {
            return Err(ConfigureError::Current(number));
        }
        let Generation {
            document,
            fingerprint,
            ..
        } = self.store.generation(number)?;
        let config = self.resolve(&document)?;
        let changes = document.changes_since(&self.in_use.document);
        let before = self.in_use.number;
        let told = (Some(number), fingerprint);
        self.tell((why, by), told, None);
        if let Err(error) = self.put_to_work(config) {
            self.tell_failed(by);
            return Err(ConfigureError::Failed(error));
        }
        self.in_use.document = document;
        self.in_use.number = Some(number);
        self.in_use.deadline = None;
        // A file that was changed while its generation was on trial still has to be taken up.
        let file = match (why, &standing) {
            (Why::Unconfirmed, Some(standing)) => standing.file.clone(),
            _ => self.file_now(standing.as_ref()),
        };
        self.in_use.unsaved = Some((Standing::confirmed(number, file), String::new()));
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
    pub(in crate::control) fn save(&mut self) -> Option<String> {
        let (standing, _) = self.in_use.unsaved.clone()?;
        match self.store.stand(standing.clone()) {
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
    pub(in crate::control) fn expire(&mut self, now: Instant) {
        if self.in_use.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.roll_back(None, Why::Unconfirmed, "the confirm window") {
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

    /// Fingerprint of the daemon's own file as it is now; what it was if it cannot be read.
    fn file_now(&self, standing: Option<&Standing>) -> String {
        let known = || standing.map_or_else(String::new, |s| s.file.clone());
        Document::read(&self.file).map_or_else(|_| known(), |document| document.fingerprint())
    }

    /// Remembers that the file says what is in use.
    fn note_file(&mut self, standing: Option<Standing>) -> Option<String> {
        let standing = standing?;
        let file = self.file_now(Some(&standing));
        if file == standing.file {
            return None;
        }
        let stood = self.store.stand(Standing { file, ..standing });
        stood.err().map(|error| error.to_string())
    }

    /// Tells the journal what counts from now on.
    fn tell(
        &mut self,
        (why, by): (Why, &str),
        (generation, fingerprint): (Option<u64>, String),
        until: Option<SystemTime>,
    ) {
        let event = Event::Configured {
            why,
            by: by.to_owned(),
            generation,
            fingerprint,
            until,
            drained: self.controller.drained.names(),
            weights: self.controller.weights.all().clone(),
        };
        self.controller.recorder.configured(event);
    }

    /// Tells the journal that what counted before counts again.
    fn tell_failed(&mut self, by: &str) {
        let before = (self.in_use.number, self.in_use.document.fingerprint());
        self.tell((Why::Failed, by), before, None);
    }

    /// Puts a configuration to work, whole or not at all.
    pub(in crate::control) fn put_to_work(&mut self, config: Config) -> anyhow::Result<()> {
        // All that can fail comes before the first change.
        for interface in &config.node.interfaces {
            interface_index(interface)?;
        }
        // What the probers of before still have to say may be of backends that moved.
        let (measured, measurements) = mailbox(MEASUREMENTS);
        let probers = self.probing.spawn(&config, &measured)?;
        let before = self.controller.config().clone();
        let now = Instant::now();
        let done = self.controller.reconfigure(config, now).and_then(|()| {
            let config = self.controller.config().clone();
            attach(&mut self.attacher, &mut self.controller.dataplane, &config)
        });
        let attached = match done {
            Ok(attached) => attached,
            Err(error) => {
                probers.into_iter().for_each(|prober| prober.abort());
                let back = self.controller.reconfigure(before.clone(), now);
                let attached = attach(&mut self.attacher, &mut self.controller.dataplane, &before);
                match back.and(attached) {
                    Ok(attached) => self.attached = attached,
                    Err(error) => error!(error = format!("{error:#}"), "cannot go back either"),
                }
                return Err(error);
            }
        };
        self.attached = attached;
        for prober in std::mem::replace(&mut self.probers, probers) {
            prober.abort();
        }
        self.measurements = measurements;
        let config = self.controller.config();
        self.store.set_keep(config.node.generations);
        self.journal
            .set_limits(Limits::of(config.node.journal_bytes));
        self.targets.send_replace(targets(config));
        (self.configured)(config);
        self.meters.configured(config);
        self.name_for_traces();
        Ok(())
    }
}
