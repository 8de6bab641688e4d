//! The loop itself: one task that owns the state, and what tells it of the world.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use steer_common::abi::FlowKey;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::interval,
};
use tracing::{error, info};

use super::{Controller, Refused, Status, ways};
use crate::{
    config::{Config, XdpMode},
    dataplane::{Attacher, Dataplane, KernelMaps, Neighbours, Xdp, interface_index},
    explain::Explanation,
    probe::{self, Measurement, ProbeSettings, ProbeTarget, ProbeTls},
};

/// How often things are done that are due by time alone.
const TICK: Duration = Duration::from_secs(1);
/// Share of the probe interval by which it varies.
const JITTER: f64 = 0.1;

/// What may be asked of the loop.
#[derive(Debug)]
pub enum Command {
    /// What there is to see.
    Status(oneshot::Sender<Result<Status>>),
    /// What the data path does with a flow; with TCP flags.
    Explain(FlowKey, u8, oneshot::Sender<Explanation>),
    /// Drain a backend, or stop draining it.
    Drain(String, bool, oneshot::Sender<Result<(), Refused>>),
}

/// The way to ask.
pub type Commands = mpsc::Sender<Command>;

/// Attaches the program and runs the loop until SIGTERM or SIGINT. The program stays.
///
/// # Errors
/// If the data path or the certificates cannot be used.
pub async fn run(
    file: &Path,
    config: Config,
    xdp: Xdp,
    commands: mpsc::Receiver<Command>,
) -> Result<()> {
    let (mut attacher, mut maps) = xdp.into_parts();
    attach(&mut attacher, &mut maps, &config)?;
    let controller = Controller::new(config, maps, Instant::now())?;
    let neighbours = Neighbours::new()?;
    let (tell_way, ways) = mpsc::channel(64);
    let (followers, followed) = watch::channel(targets(controller.config()));
    tokio::spawn(ways::follow(neighbours, followed, tell_way));
    let (measured, measurements) = mpsc::channel(1024);
    let probers = spawn_probers(controller.config(), &measured)?;
    info!(
        node = controller.config().node.name,
        backends = controller.config().backends.len(),
        services = controller.config().services.len(),
        "steering"
    );
    let daemon = Daemon {
        file: file.to_owned(),
        controller,
        attacher,
        targets: followers,
        measured,
        probers,
    };
    daemon.run(commands, ways, measurements).await
}

struct Daemon {
    file: PathBuf,
    controller: Controller<KernelMaps>,
    attacher: Attacher,
    targets: watch::Sender<ways::Targets>,
    measured: mpsc::Sender<Measurement>,
    probers: Vec<JoinHandle<()>>,
}

impl Daemon {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut ways: mpsc::Receiver<ways::Way>,
        mut measurements: mpsc::Receiver<Measurement>,
    ) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        let mut hangup = signal(SignalKind::hangup()).context("no SIGHUP handler")?;
        let mut tick = interval(TICK);
        loop {
            let done = tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(measurement) = measurements.recv() => self.controller.measure(&measurement),
                Some((name, way)) = ways.recv() => self.controller.set_way(&name, way),
                Some(command) = commands.recv() => {
                    self.obey(command);
                    Ok(())
                }
                _ = hangup.recv() => {
                    self.reload();
                    Ok(())
                }
                _ = tick.tick() => self.controller.tick(Instant::now()),
            };
            // Packets go on by what the maps say; the next change may do better.
            if let Err(error) = done {
                error!(
                    error = format!("{error:#}"),
                    "the data path was not written"
                );
            }
        }
        for prober in self.probers {
            prober.abort();
        }
        info!("stopped; the program goes on steering until `steer detach`");
        Ok(())
    }

    /// Answers; whoever does not wait for the answer any more has it their way.
    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Status(reply) => drop(reply.send(self.controller.status(now))),
            Command::Explain(key, flags, reply) => {
                drop(reply.send(self.controller.explain(&key, flags)));
            }
            Command::Drain(name, drained, reply) => {
                drop(reply.send(self.controller.drain(&name, drained, now)));
            }
        }
    }

    /// Reads the configuration again. A bad one changes nothing.
    fn reload(&mut self) {
        match self.try_reload() {
            Ok(()) => info!(file = %self.file.display(), "configuration applied"),
            Err(error) => error!(
                "configuration not applied, the running one goes on: {}",
                format!("{error:#}")
            ),
        }
    }

    fn try_reload(&mut self) -> Result<()> {
        let config = Config::load(&self.file)?;
        let old = &self.controller.config().node;
        for (name, old, new) in [
            ("socket", &old.socket, &config.node.socket),
            ("bpffs", &old.bpffs, &config.node.bpffs),
            ("state_dir", &old.state_dir, &config.node.state_dir),
        ] {
            if old != new {
                bail!(
                    "{}: node.{name} cannot change from {} to {} while the daemon runs; restart it",
                    self.file.display(),
                    old.display(),
                    new.display()
                );
            }
        }
        // All that can fail comes before the first change.
        for interface in &config.node.interfaces {
            interface_index(interface)?;
        }
        let probers = spawn_probers(&config, &self.measured)?;
        let done = self.controller.reconfigure(config, Instant::now());
        if let Err(error) = done {
            for prober in probers {
                prober.abort();
            }
            return Err(error);
        }
        for prober in std::mem::replace(&mut self.probers, probers) {
            prober.abort();
        }
        let config = self.controller.config().clone();
        self.targets.send_replace(targets(&config));
        attach(&mut self.attacher, &mut self.controller.dataplane, &config)
    }
}

/// Attaches to the interfaces of the configuration, and to no other.
fn attach(attacher: &mut Attacher, maps: &mut KernelMaps, config: &Config) -> Result<()> {
    let generic = config.node.xdp_mode == XdpMode::Generic;
    // A name that is wrong shows before anything is attached.
    for interface in &config.node.interfaces {
        maps.add_port(interface_index(interface)?)?;
    }
    for interface in &config.node.interfaces {
        attacher.attach(interface, generic)?;
    }
    for interface in attacher.interfaces() {
        if !config.node.interfaces.contains(&interface) {
            attacher.detach(&interface)?;
            info!(interface, "detached: the configuration does not name it");
        }
    }
    Ok(())
}

fn targets(config: &Config) -> ways::Targets {
    let backends = config.backends.iter();
    let interfaces = config.node.interfaces.iter();
    ways::Targets {
        backends: backends.map(|b| (b.name.clone(), b.address)).collect(),
        // One that is gone by now comes back with another index, and another look at all this.
        attached: interfaces.flat_map(|name| interface_index(name)).collect(),
    }
}

fn spawn_probers(
    config: &Config,
    measured: &mpsc::Sender<Measurement>,
) -> Result<Vec<JoinHandle<()>>> {
    let Some(files) = &config.probe.files else {
        return Ok(Vec::new());
    };
    let tls = ProbeTls::load(&files.ca, &files.cert, &files.key)?;
    let settings = ProbeSettings {
        interval: config.probe.interval,
        timeout: config.probe.timeout,
        jitter: JITTER,
        handshake_every: config.probe.handshake_every,
        tls: Arc::new(tls),
    };
    let mut probers = Vec::new();
    for backend in &config.backends {
        if let Some(address) = backend.beacon {
            let target = ProbeTarget {
                name: backend.name.clone(),
                region: backend.region.clone(),
                address,
            };
            probers.push(probe::spawn(target, settings.clone(), measured.clone()));
        }
    }
    Ok(probers)
}
