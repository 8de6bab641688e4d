//! Reading of documents, and of what they change: beside the event loop, which decisions about packets wait for.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use steer_core::{
    config::{Config, ConfigError, Document},
    control::DryRun,
    dataplane::SteeringTables as _,
    generations::{Generation, History, Store},
};
use steer_dataplane::Sizes;

use super::{ApplyError, Diff, InUse};
use crate::{
    daemon::{event_loop::Daemon, flow_seed, source::BackendSource},
    preflight,
};

/// The configuration in use, and what a running daemon cannot change: a document is compared with it beside the
/// loop.
#[derive(Clone, Debug)]
pub struct RunningConfig {
    document: Arc<Document>,
    number: Option<u64>,
    /// Source of the daemon's backends: its own file.
    source: Arc<dyn BackendSource>,
    node: FixedPaths,
    state_is_given: bool,
    sizes: Sizes,
    store: Store,
    /// The seed of the maps in use.
    flow_seed: u64,
    /// Files that the configuration in use names.
    files: BTreeSet<PathBuf>,
    /// Set while the generation in use has to be confirmed.
    is_pending: bool,
}

/// Paths that a running daemon cannot change.
#[derive(Clone, Debug)]
struct FixedPaths {
    socket: PathBuf,
    bpffs: PathBuf,
    state_dir: PathBuf,
    flow_seed_file: Option<PathBuf>,
}

/// Options for reading a document.
#[derive(Clone, Copy)]
pub struct ReadOptions<'s> {
    /// Permits to expand variables that the configuration in use does not have in the same place, and to read files
    /// that it does not name.
    pub may_expand: bool,
    /// Returns true once reading is to be given up; called often.
    pub stop: &'s dyn Fn() -> bool,
}

/// A document that was read, with what it changes of the configuration that it was compared with.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) document: Arc<Document>,
    pub(crate) fingerprint: String,
    pub(crate) config: Config,
    pub(crate) changes: Vec<String>,
    /// The generation that it was compared with.
    pub(crate) from: Option<u64>,
    /// The document that it was compared with.
    pub(crate) compared: Arc<Document>,
    /// Fingerprint of the daemon's own file, if it can be read.
    pub(crate) file: Option<String>,
}

impl RunningConfig {
    /// Reads a document.
    ///
    /// # Errors
    /// If it is wrong, a running daemon cannot take it, or it was given up.
    pub fn prepare(
        &self,
        document: Document,
        options: ReadOptions<'_>,
    ) -> Result<Prepared, ApplyError> {
        document.fits()?;
        if !options.may_expand {
            let places = document.new_variables(&self.document);
            if !places.is_empty() {
                return Err(ApplyError::Variables(places.join(", ")));
            }
        }
        let variable = |name: &str| std::env::var(name).ok();
        let mut config = document.config_unless(&variable, options.stop)?;
        if !options.may_expand {
            // What is said of a file tells who may not read it that it is there, and what is in it.
            let named = config.named_files().into_iter();
            let mut foreign = named.filter(|path| !self.files.contains(*path));
            if let Some(path) = foreign.next() {
                return Err(ApplyError::ForeignFile(path.to_owned()));
            }
        }
        self.fix(&mut config)?;
        let file = self.source.read().map(|set| set.version);
        Ok(Prepared {
            changes: document.changes_since(&self.document),
            fingerprint: document.fingerprint(),
            document: Arc::new(document),
            config,
            from: self.number,
            compared: Arc::clone(&self.document),
            file: file.ok(),
        })
    }

    /// Reads the daemon's own file.
    ///
    /// # Errors
    /// As [`Self::prepare`], and if it cannot be read.
    pub fn prepare_file(&self, options: ReadOptions<'_>) -> Result<Prepared, ApplyError> {
        self.prepare(self.source.read()?.document, options)
    }

    /// Reads a generation to go back to; without a number, the last one that was confirmed or applied without a
    /// confirm window, and not reverted.
    ///
    /// # Errors
    /// As [`Self::prepare`], and if there is none.
    pub fn prepare_generation(
        &self,
        number: Option<u64>,
        options: ReadOptions<'_>,
    ) -> Result<(u64, Prepared), ApplyError> {
        let confirmed = self.store.active().map(|standing| standing.confirmed);
        let number = match (number, confirmed) {
            (Some(number), _) => number,
            (None, Some(confirmed)) if self.is_pending => confirmed,
            (None, _) => self.store.rollback_target()?.ok_or(ApplyError::Oldest)?,
        };
        if self.number == Some(number) {
            return Err(ApplyError::Current(number));
        }
        let generation = self.store.generation(number)?;
        Ok((number, self.prepare(generation.document, options)?))
    }

    /// Generations that are kept.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn history(&self) -> Result<History, ApplyError> {
        Ok(self.store.history()?)
    }

    /// A generation; without a number, the one in use.
    ///
    /// # Errors
    /// If it is not kept.
    pub fn generation(&self, number: Option<u64>) -> Result<Generation, ApplyError> {
        let number = number.or(self.number).unwrap_or_default();
        Ok(self.store.generation(number)?)
    }

    /// Gives a configuration what the command line says, and checks that a running daemon can take it.
    fn fix(&self, config: &mut Config) -> Result<(), ApplyError> {
        let old = &self.node;
        if self.state_is_given {
            config.node.state_dir.clone_from(&old.state_dir);
        }
        for (key, from, to) in [
            ("socket", &old.socket, &config.node.socket),
            ("bpffs", &old.bpffs, &config.node.bpffs),
            ("state_dir", &old.state_dir, &config.node.state_dir),
        ] {
            if from != to {
                return Err(ApplyError::Fixed {
                    key,
                    from: from.display().to_string(),
                    to: to.display().to_string(),
                });
            }
        }
        if config.node.flow_seed_file != old.flow_seed_file {
            let seed = flow_seed::configured_seed(&config.node).map_err(ApplyError::Failed)?;
            if seed.is_some_and(|seed| seed != self.flow_seed) {
                return Err(ApplyError::FlowSeed);
            }
        }
        let wanted = Sizes::from(config.limits);
        if let Some((key, has, wants)) = self.sizes.too_small_for(&wanted) {
            return Err(ApplyError::TooSmall { key, has, wants });
        }
        Ok(())
    }
}

impl Prepared {
    /// Computes what it moves, on a copy of the loop's state. With thousands of backends that takes a while.
    ///
    /// # Errors
    /// If the configuration needs more than the data path holds, or it was given up between two steps.
    pub fn diff(&self, dry_run: &DryRun, stop: &dyn Fn() -> bool) -> Result<Diff, ApplyError> {
        let preview = dry_run.preview(&self.config);
        if stop() {
            return Err(ConfigError::Stopped.into());
        }
        Ok(Diff {
            from: self.from,
            changes: self.changes.clone(),
            preview: preview.map_err(ApplyError::Failed)?,
            findings: preflight::check(&self.config),
        })
    }

    /// Checks that what it was compared with still is in use.
    pub(crate) fn check(&self, in_use: &InUse) -> Result<(), ApplyError> {
        if self.from == in_use.number && Arc::ptr_eq(&self.compared, &in_use.document) {
            Ok(())
        } else {
            Err(ApplyError::Changed)
        }
    }
}

impl Daemon {
    pub(crate) fn running_config(&self) -> RunningConfig {
        let config = self.controller.view().config();
        let node = &config.node;
        RunningConfig {
            document: Arc::clone(&self.in_use.document),
            number: self.in_use.number,
            source: Arc::clone(&self.source),
            node: FixedPaths {
                socket: node.socket.clone(),
                bpffs: node.bpffs.clone(),
                state_dir: node.state_dir.clone(),
                flow_seed_file: node.flow_seed_file.clone(),
            },
            flow_seed: self.controller.dataplane.config().flow_seed,
            state_is_given: self.state_is_given,
            sizes: self.sizes,
            store: self.store.clone(),
            files: config
                .named_files()
                .into_iter()
                .map(Path::to_owned)
                .collect(),
            is_pending: self.in_use.deadline.is_some(),
        }
    }
}
