//! Changing the configuration of a running daemon: diff, apply, confirm, roll back.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{
    preview::Preview,
    run::{Daemon, MEASUREMENTS, addresses, attach, spawn_probers},
};
use crate::{
    config::{Config, ConfigError, Document},
    dataplane::interface_index,
    generations::{Generation, History, Standing, StateError, Trial},
    journal::{Event, Limits, Why},
    preflight::Finding,
};

/// How long a revert that failed is left alone.
const RETRY: Duration = Duration::from_secs(10);

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, ConfigureError>>;

/// What may be asked about the configuration.
#[derive(Debug)]
pub enum Configure {
    /// What would another one move?
    Diff(Document, Reply<Diff>),
    /// Put another one to work.
    Apply {
        /// What it says.
        document: Document,
        /// How long to wait for a confirmation, if one is wanted.
        within: Option<Duration>,
        /// Who asks.
        by: String,
        /// Where the answer goes.
        reply: Reply<Applied>,
    },
    /// Make the one on trial the one to go back to.
    Confirm {
        /// Who asks.
        by: String,
        /// Where the answer goes.
        reply: Reply<u64>,
    },
    /// Go back to a generation.
    Rollback {
        /// Which; without one, the one before.
        to: Option<u64>,
        /// Who asks.
        by: String,
        /// Where the answer goes.
        reply: Reply<Applied>,
    },
    /// What is kept?
    History(Reply<History>),
    /// What does a generation say? Without a number, the one in use.
    Show(Option<u64>, Reply<Generation>),
}

/// What another configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// The generation in use, if there is one.
    pub from: Option<u64>,
    /// Keys that differ, a line each.
    pub changes: Vec<String>,
    /// What moves.
    pub preview: Preview,
    /// Where it does not fit the node. Whoever asks the loop fills it in: looking takes a while.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// The generation in use now.
    pub generation: Option<u64>,
    /// Whether it was in use before: files that it names were read again, and that is all.
    pub unchanged: bool,
    /// When it is taken back unless somebody confirms it.
    #[serde(with = "humantime_serde")]
    pub until: Option<SystemTime>,
    /// What it changed.
    pub diff: Diff,
    /// What did not go as it should have, with what to do.
    pub warning: Option<String>,
}

/// Why the configuration did not change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// The document is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// The state directory did not do.
    #[error("nothing was changed: {0}")]
    State(#[from] StateError),
    /// A generation is on trial.
    #[error(
        "generation {number} is on trial for another {left}; `steer config confirm` or \
         `steer config rollback` first"
    )]
    Trial {
        /// Its number.
        number: u64,
        /// What is left of it.
        left: String,
    },
    /// There is nothing to confirm.
    #[error("no generation is on trial; `steer config history` lists them")]
    NoTrial,
    /// It is in use.
    #[error("generation {0} is in use; `steer config history` lists the others")]
    Current(u64),
    /// There is nothing to go back to.
    #[error("no older generation is kept; `steer config history` lists them")]
    Oldest,
    /// Something that a running daemon cannot change.
    #[error(
        "node.{key} cannot change from {from} to {to} while the daemon runs; change the file and \
         restart it"
    )]
    Fixed {
        /// The key.
        key: &'static str,
        /// Its value.
        from: String,
        /// The value that it cannot have.
        to: String,
    },
    /// It could not be put to work.
    #[error("nothing was changed: {0:#}")]
    Failed(anyhow::Error),
}

/// What counts of the generations, in the running daemon.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) document: Document,
    pub(super) number: Option<u64>,
    /// When the one on trial is taken back.
    pub(super) deadline: Option<Instant>,
    /// A standing that could not be written yet.
    pub(super) unsaved: Option<Standing>,
}

impl Daemon {
    pub(super) fn configure(&mut self, ask: Configure) {
        match ask {
            Configure::Diff(document, reply) => drop(reply.send(self.diff(&document))),
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
    pub(super) fn reload(&mut self) {
        let document = Document::read(&self.file).map_err(ConfigureError::from);
        match document.and_then(|d| self.apply(d, None, Why::Reload, "SIGHUP")) {
            Ok(_) => {}
            Err(error) => {
                error!("configuration not applied, the running one goes on: {error}");
            }
        }
    }

    fn diff(&self, document: &Document) -> Result<Diff, ConfigureError> {
        let config = self.resolve(document)?;
        self.difference(document, &config)
    }

    fn difference(&self, document: &Document, config: &Config) -> Result<Diff, ConfigureError> {
        let preview = self.controller.preview(config, Instant::now());
        Ok(Diff {
            from: self.in_use.number,
            changes: document.changes_since(&self.in_use.document),
            preview: preview.map_err(ConfigureError::Failed)?,
            findings: Vec::new(),
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
                left: humantime_serde::re::humantime::format_duration(left).to_string(),
            });
        }
        let config = self.resolve(&document)?;
        let diff = self.difference(&document, &config)?;
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
                diff,
                warning: self.note_file(standing),
            });
        }
        let file = self.file_now(standing.as_ref());
        let now = SystemTime::now();
        let made = self.store.add(document, by, now)?;
        let number = made.number;
        let trial = within.zip(standing.as_ref());
        let next = match trial {
            Some((window, standing)) => Standing {
                confirmed: standing.confirmed,
                trial: Some(Trial {
                    number,
                    until: now + window,
                    window,
                }),
                file,
            },
            None => Standing::confirmed(number, file),
        };
        if let Err(error) = self.store.stand(next.clone()) {
            self.store.discard(number);
            return Err(error.into());
        }
        let before = std::mem::replace(&mut self.in_use.document, made.document);
        let until = next.trial.as_ref().map(|trial| trial.until);
        self.tell(why, by, Some(number), until, &diff.preview);
        if let Err(error) = self.put_to_work(config) {
            self.in_use.document = before;
            self.tell(
                Why::Failed,
                by,
                self.in_use.number,
                None,
                &Preview::default(),
            );
            if let Err(error) = self.store.undo(standing) {
                error!(%error, generation = number, "a restart would take up what failed");
            }
            self.store.discard(number);
            return Err(ConfigureError::Failed(error));
        }
        self.in_use.number = Some(number);
        self.in_use.unsaved = None;
        self.in_use.deadline = trial.map(|(window, _)| Instant::now() + window);
        self.store.prune();
        info!(generation = number, by, ?within, "configuration applied");
        Ok(Applied {
            generation: Some(number),
            unchanged: false,
            until,
            diff,
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
        let generation = self.store.generation(number)?;
        let config = self.resolve(&generation.document)?;
        let diff = self.difference(&generation.document, &config)?;
        let before = self.in_use.number;
        self.tell(why, by, Some(number), None, &diff.preview);
        if let Err(error) = self.put_to_work(config) {
            self.tell(Why::Failed, by, before, None, &Preview::default());
            return Err(ConfigureError::Failed(error));
        }
        self.in_use.document = generation.document;
        self.in_use.number = Some(number);
        self.in_use.deadline = None;
        // A file that was changed while its generation was on trial still has to be taken up.
        let file = match (why, &standing) {
            (Why::Unconfirmed, Some(standing)) => standing.file.clone(),
            _ => self.file_now(standing.as_ref()),
        };
        self.in_use.unsaved = Some(Standing::confirmed(number, file));
        let warning = self.save();
        info!(generation = number, from = before, by, "rolled back");
        Ok(Applied {
            generation: Some(number),
            unchanged: false,
            until: None,
            diff,
            warning,
        })
    }

    /// Writes what could not be written before.
    pub(super) fn save(&mut self) -> Option<String> {
        let standing = self.in_use.unsaved.clone()?;
        match self.store.stand(standing) {
            Ok(()) => {
                self.in_use.unsaved = None;
                self.store.prune();
                None
            }
            Err(error) => Some(format!(
                "generation {} is in use, but a restart would not know: {error}",
                self.in_use.number.unwrap_or_default()
            )),
        }
    }

    /// Takes back a generation that nobody confirmed in time.
    pub(super) fn expire(&mut self, now: Instant) {
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

    fn tell(
        &mut self,
        why: Why,
        by: &str,
        generation: Option<u64>,
        until: Option<SystemTime>,
        preview: &Preview,
    ) {
        let moved = preview.services.iter();
        let event = Event::Configured {
            why,
            by: by.to_owned(),
            generation,
            fingerprint: match generation.map(|number| self.store.generation(number)) {
                Some(Ok(generation)) => generation.fingerprint,
                _ => self.in_use.document.fingerprint(),
            },
            until,
            drained: self.controller.drained.names(),
            moved: moved.map(|s| (s.name.clone(), s.moved)).collect(),
        };
        self.controller.recorder.configured(event);
    }

    /// Puts a configuration to work, whole or not at all.
    fn put_to_work(&mut self, config: Config) -> anyhow::Result<()> {
        // All that can fail comes before the first change.
        for interface in &config.node.interfaces {
            interface_index(interface)?;
        }
        // What the probers of before still have to say may be of backends that moved.
        let (measured, measurements) = mpsc::channel(MEASUREMENTS);
        let probers = spawn_probers(&config, &measured)?;
        let before = self.controller.config().clone();
        let now = Instant::now();
        let done = self.controller.reconfigure(config, now).and_then(|()| {
            let config = self.controller.config().clone();
            attach(&mut self.attacher, &mut self.controller.dataplane, &config)
        });
        if let Err(error) = done {
            probers.into_iter().for_each(|prober| prober.abort());
            let back = self.controller.reconfigure(before.clone(), now);
            let attached = attach(&mut self.attacher, &mut self.controller.dataplane, &before);
            if let Err(error) = back.and(attached) {
                error!(error = format!("{error:#}"), "cannot go back either");
            }
            return Err(error);
        }
        for prober in std::mem::replace(&mut self.probers, probers) {
            prober.abort();
        }
        self.measurements = measurements;
        let config = self.controller.config();
        self.store.set_keep(config.node.generations);
        self.journal
            .set_limits(Limits::of(config.node.journal_bytes));
        self.targets.send_replace(addresses(config));
        (self.configured)(config);
        Ok(())
    }
}
