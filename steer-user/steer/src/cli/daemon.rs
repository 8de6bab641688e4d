//! `steer run` and `steer detach`.

use std::{
    fs::{File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::Context as _;
use clap::Args;
use steer_core::{
    config::{Config, ConfigError, Document},
    durable,
    generations::{self, Started, Store},
    journal::{self, Journal, Limits},
};
use steer_dataplane::{OpenOptions, PinLock, Pins, Sizes, Xdp};
use steer_telemetry::{LogFormat, Supervisor};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    doctor,
    error::{Exit, Failure},
    open_files,
};
use crate::{
    api::{self, Access, Monitor},
    daemon::{self, DaemonMetrics, FileSource, Pulse, ReadinessSink, Setup},
    otlp::{self, Target},
};

/// Capacity of the command queue to the loop.
const COMMANDS: usize = 64;
/// Default state directory.
pub(super) const DEFAULT_STATE: &str = "/var/lib/steer";

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Path of the configuration.
    #[arg(long, default_value = "/etc/steer/steer.toml")]
    config: PathBuf,
    /// State directory for generations and the journal, overriding `node.state_dir`.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Detach the program at exit, instead of leaving it active.
    #[arg(long)]
    detach: bool,
}

impl Run {
    #[tokio::main]
    pub(super) async fn run(self, format: LogFormat) -> Result<(), Failure> {
        steer_telemetry::start(format)?;
        let file = Document::read(&self.config);
        let state = self.state.clone().unwrap_or_else(|| state_dir(&file));
        // The lock comes first, so that a second daemon changes nothing.
        let _lock = lock(&state)?;
        let (store, started) = start(&state, file)?;
        open_files::raise(&started.config)?;
        doctor::before_start(&started.config)?;
        let node = started.config.node.clone();
        let listener = api::bind(&node.socket).await?;
        let xdp = Xdp::open(&OpenOptions {
            bpffs: Some(node.bpffs.clone()),
            sizes: sizes(&store, &started.config),
        })?;
        info!(adopted = xdp.adopted(), "program loaded");
        let (ask, commands) = mpsc::channel(COMMANDS);
        let access = Arc::new(Access::new(&node.socket));
        let roles = Arc::clone(&access);
        let folder = journal::folder(&state);
        let (journal, cut) = Journal::open(&folder, Limits::from_bytes(node.journal_bytes))?;
        let changes = api::Changes::default();
        let journal = journal.watched_by(Arc::new(changes.clone()));
        let monitor = Monitor {
            commands: ask,
            changes,
            metrics: DaemonMetrics::new(),
        };
        let daemon_metrics = monitor.metrics.clone();
        let (metrics, address) = watch::channel(None);
        tokio::spawn(api::monitor(monitor.clone(), address));
        let (collector, targets) = watch::channel(None);
        tokio::spawn(otlp::export(monitor.clone(), targets));
        let (remote, remotes) = watch::channel(None);
        tokio::spawn(api::remote(Arc::clone(&access), monitor.clone(), remotes));
        tokio::spawn(async move { api::serve(listener, &access, monitor).await });
        let setup = Setup {
            source: Arc::new(FileSource::new(self.config)),
            started,
            store,
            state_is_given: self.state.is_some(),
            journal: (journal, cut),
            sinks: vec![Box::new(ServiceManager(Supervisor::new(daemon::TICK)))],
            configured: Box::new(move |config| {
                roles.set(&config.api);
                metrics.send_replace(api::Metrics::from_config(config));
                remote.send_replace(config.api.remote.clone());
                collector.send_replace(Target::from_config(config));
            }),
            metrics: daemon_metrics,
        };
        daemon::run(setup, xdp, commands).await?;
        // The next daemon replaces a leftover socket.
        let _ = std::fs::remove_file(&node.socket);
        if self.detach {
            Pins::new(&node.bpffs).remove()?;
            info!("detached");
        }
        Ok(())
    }
}

/// The service manager, whose watchdog bites when the loop hangs.
struct ServiceManager(Supervisor);

impl ReadinessSink for ServiceManager {
    fn announce(&mut self, pulse: &Pulse) {
        match pulse {
            Pulse::Steering(state) => self.0.ready(state.summary.clone()),
            Pulse::Alive(state) => self.0.alive(state.summary.clone()),
            Pulse::Stopping => self.0.stopping(),
        }
    }
}

/// Returns the state directory in the file, even if other parts of it are invalid.
fn state_dir(file: &Result<Document, ConfigError>) -> PathBuf {
    let Ok(document) = file else {
        return DEFAULT_STATE.into();
    };
    match document.config() {
        Ok(config) => config.node.state_dir,
        Err(_) => document.hint("state_dir").unwrap_or(DEFAULT_STATE).into(),
    }
}

/// Locks the state directory until the returned file is closed. If it cannot be locked, there is no
/// state either.
fn lock(state: &Path) -> Result<Option<File>, Failure> {
    let path = state.join("lock");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let open = std::fs::create_dir_all(state).and_then(|()| durable::open(&mut options, &path));
    let file = match open {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            let why = format!("{}: {error}; remove it and start again", path.display());
            return Err(anyhow::anyhow!(why).into());
        }
        Err(error) => {
            warn!(path = %path.display(), %error, "generations cannot be stored");
            return Ok(None);
        }
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(anyhow::anyhow!(
            "{}: another daemon uses this state directory; stop it, or give this one its own",
            state.display()
        )
        .into()),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Returns the required sizes of the flow tables: while a generation is pending, also large enough
/// for the one to revert to.
fn sizes(store: &Store, config: &Config) -> Sizes {
    let sizes = Sizes::from(config.limits);
    let on_trial = store.active().filter(|standing| standing.pending.is_some());
    let before = on_trial.and_then(|standing| store.generation(standing.confirmed).ok());
    let before = before.and_then(|generation| generation.document.config().ok());
    before.map_or(sizes, |before| sizes.max(before.limits.into()))
}

fn start(state: &Path, file: Result<Document, ConfigError>) -> Result<(Store, Started), Failure> {
    let keep = file
        .as_ref()
        .ok()
        .and_then(|document| document.config().ok());
    let keep = keep.map_or(usize::MAX, |config| config.node.generations);
    let (mut store, damage) = Store::recover(state, keep)?;
    if let Some(error) = damage {
        match store.active().map(generations::ActiveGeneration::current) {
            Some(generation) => {
                warn!(%error, generation, "using a generation although its state is missing")
            }
            None => {
                warn!(%error, "the active generation is unknown; using the file")
            }
        }
    }
    let mut started = generations::start(&mut store, file, SystemTime::now())
        .map_err(|e| Failure::new(Exit::Config, e))?;
    for warning in &started.warnings {
        warn!("{warning}");
    }
    info!(
        generation = started.number,
        why = started.why,
        "configuration loaded"
    );
    started.config.node.state_dir = state.to_owned();
    store.set_keep(started.config.node.generations);
    Ok((store, started))
}

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// Path of the configuration, which names the BPF file system.
    #[arg(long, default_value = "/etc/steer/steer.toml")]
    config: PathBuf,
    /// BPF file system, if the configuration is missing or invalid.
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    bpffs: Option<PathBuf>,
}

impl Detach {
    pub(super) fn run(self) -> Result<(), Failure> {
        let bpffs = match self.bpffs {
            Some(bpffs) => bpffs,
            None => {
                let config =
                    Config::load(&self.config).map_err(|e| Failure::new(Exit::Config, e))?;
                config.node.bpffs
            }
        };
        let lock = PinLock::acquire(&bpffs).context("nothing was detached")?;
        let pins = Pins::new(&bpffs);
        let interfaces = pins.interfaces();
        pins.remove()?;
        drop(lock);
        if interfaces.is_empty() {
            println!("nothing was attached");
        }
        for interface in interfaces {
            println!("detached from {interface}");
        }
        Ok(())
    }
}
