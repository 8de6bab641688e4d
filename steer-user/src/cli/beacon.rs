//! `steer beacon`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use humantime_serde::re::humantime::parse_duration;
use hyper::header::HeaderValue;
use tokio::signal::unix::{SignalKind, signal};

use super::error::Failure;
use crate::beacon::{self, BeaconConfig, EngineConfig, Profile};
use crate::telemetry::{self, LogFormat, Supervisor};

/// Interval of watchdog messages to the service manager.
const PULSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Beacon {
    /// UDP address for probes.
    #[arg(long, default_value = "[::]:7100")]
    listen: SocketAddr,
    /// File of the CA of node certificates.
    #[arg(long, default_value = "/etc/steer/pki/ca.pem")]
    ca: PathBuf,
    /// File of the beacon's certificate.
    #[arg(long, required_unless_present = "print_profile")]
    cert: Option<PathBuf>,
    /// File of its key.
    #[arg(long, required_unless_present = "print_profile")]
    key: Option<PathBuf>,
    /// TCP address of the backend on this machine: while it refuses connections, probes fail.
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<SocketAddr>,
    /// Drain file: while it exists, the backend drains.
    #[arg(long, value_name = "FILE")]
    drain_file: Option<PathBuf>,
    /// Ask each node to send at most this many probes per second.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    probe_budget: Option<u32>,
    /// Maximum number of connections per node; one more closes its oldest.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=1024))]
    connections_per_node: u16,
    #[command(flatten)]
    engine: Engine,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The engine")]
struct Engine {
    /// Engine behind --backend: report its load and watch its progress.
    #[arg(long, requires = "backend")]
    engine: Option<beacon::Engine>,
    /// File with a custom engine profile; `--print-profile` prints one to start with.
    #[arg(
        long,
        value_name = "FILE",
        requires = "backend",
        conflicts_with = "engine"
    )]
    profile: Option<PathBuf>,
    /// Print the profile of an engine and exit.
    #[arg(long, value_name = "ENGINE")]
    print_profile: Option<beacon::Engine>,
    /// Address of the engine's page of metrics (default: --backend).
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// File with the engine's API key.
    #[arg(long, value_name = "FILE")]
    engine_key: Option<PathBuf>,
    /// Interval between reads of the engine's metrics.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    look_every: Duration,
    /// Time without progress after which an engine with work counts as hung, unless it answers a
    /// question. Questions start after half of it.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    stall: Duration,
    /// Response time of the page of metrics after which the engine is asked a question.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    silence: Duration,
    /// Interval of one-token completions while the engine is idle. 0s disables all questions, so
    /// that a hang is never detected.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    completion_every: Duration,
    /// Number of concurrent requests, overriding what the engine reports.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    capacity: Option<u32>,
    /// Number of waiting requests that is too many (default: the number of concurrent ones).
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    waiting_limit: Option<u32>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|e| e.to_string())?;
    let sane = Duration::from_millis(50)..=Duration::from_secs(3600);
    if sane.contains(&duration) {
        Ok(duration)
    } else {
        Err("write 50ms to 1h".to_owned())
    }
}

impl Beacon {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, format: LogFormat) -> Result<(), Failure> {
        if let Some(engine) = self.engine.print_profile {
            print!("{}", engine.text());
            return Ok(());
        }
        telemetry::start(format)?;
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        let listen = self.listen;
        let config = self.config()?;
        let beacon = beacon::Beacon::bind(&config).await?;
        tracing::info!(listen = %beacon.local_addr(), "beacon answers");
        let stop = async {
            let mut supervisor = Supervisor::new(PULSE);
            let status = format!("answering on {listen}");
            supervisor.ready(status.clone());
            let mut pulse = tokio::time::interval(PULSE);
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    // Runs in the same thread as the answers, so it stops if that thread hangs.
                    _ = pulse.tick() => supervisor.alive(status.clone()),
                }
            }
            supervisor.stopping();
        };
        beacon.serve(stop).await;
        tracing::info!("beacon stopped");
        Ok(())
    }

    fn config(self) -> Result<BeaconConfig, Failure> {
        let engine = match self.backend {
            Some(backend) => self.engine.config(backend)?,
            None => None,
        };
        Ok(BeaconConfig {
            listen: self.listen,
            ca: self.ca,
            cert: self.cert.unwrap_or_default(),
            key: self.key.unwrap_or_default(),
            backend_check: self.backend,
            engine,
            drain_file: self.drain_file,
            probe_budget: self.probe_budget.map(f64::from),
            connections_per_node: self.connections_per_node.into(),
        })
    }
}

impl Engine {
    fn config(self, api: SocketAddr) -> Result<Option<EngineConfig>, Failure> {
        let profile = match (self.engine, &self.profile) {
            (Some(engine), _) => Profile::of(engine)?,
            (None, Some(file)) => Profile::load(file)?,
            (None, None) => return Ok(None),
        };
        let key = match &self.engine_key {
            Some(file) => Some(key(file)?),
            None => None,
        };
        let every = self.completion_every;
        Ok(Some(EngineConfig {
            profile,
            metrics: self.metrics.unwrap_or(api),
            api,
            key,
            every: self.look_every,
            stall: self.stall,
            silence: self.silence,
            completion: (!every.is_zero()).then(|| every.max(Duration::from_secs(1))),
            capacity: self.capacity.map(f64::from),
            limit: self.waiting_limit.map(f64::from),
        }))
    }
}

/// Reads a bearer token from a file.
fn key(file: &PathBuf) -> anyhow::Result<HeaderValue> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("engine's key {name}"))?;
    let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", text.trim())) else {
        bail!(
            "engine's key {name}: it has characters that are invalid in a header; the file must \
             contain one line of text"
        );
    };
    value.set_sensitive(true);
    Ok(value)
}
