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

/// How often the service manager hears that the beacon lives.
const PULSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Beacon {
    /// UDP address to answer probes at.
    #[arg(long, default_value = "[::]:7100")]
    listen: SocketAddr,
    /// The CA that nodes' certificates come from.
    #[arg(long, default_value = "/etc/steer/pki/ca.pem")]
    ca: PathBuf,
    /// The beacon's certificate.
    #[arg(long, required_unless_present = "print_profile")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, required_unless_present = "print_profile")]
    key: Option<PathBuf>,
    /// The backend's TCP address on this machine: while it refuses connections, probes fail.
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<SocketAddr>,
    /// While this file is there the backend drains.
    #[arg(long, value_name = "FILE")]
    drain_file: Option<PathBuf>,
    /// Ask each node to send so many probes a second at most.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    probe_budget: Option<u32>,
    /// How many connections one node may have at once; one more closes its oldest.
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=1024))]
    connections_per_node: u16,
    #[command(flatten)]
    engine: Engine,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The engine")]
struct Engine {
    /// The engine behind --backend: its load is reported, and its progress is watched.
    #[arg(long, requires = "backend")]
    engine: Option<beacon::Engine>,
    /// The same by a profile of your own; `--print-profile` prints one to begin with.
    #[arg(
        long,
        value_name = "FILE",
        requires = "backend",
        conflicts_with = "engine"
    )]
    profile: Option<PathBuf>,
    /// Print the profile of an engine, and do nothing else.
    #[arg(long, value_name = "ENGINE")]
    print_profile: Option<beacon::Engine>,
    /// Where its page of metrics is, if not at --backend.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// A file with its API key.
    #[arg(long, value_name = "FILE")]
    engine_key: Option<PathBuf>,
    /// From one look at its metrics to the next.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    look_every: Duration,
    /// Ask the engine after half of this time with work and without progress. It counts as hung after all of it, if it
    /// does not answer either.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    stall: Duration,
    /// Ask the engine when its page of metrics takes longer.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    silence: Duration,
    /// Ask it for one token so often while it has nothing to do. With 0s it is never asked, and nothing is found hung.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    completion_every: Duration,
    /// Requests that it works on at once, if it does not say so itself.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    capacity: Option<u32>,
    /// Waiting requests that are too many; without it, as many as it works on at once.
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
            let status = format!("answers at {listen}");
            supervisor.ready(status.clone());
            let mut pulse = tokio::time::interval(PULSE);
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    // In the one thread that answers, too.
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

/// A bearer token from a file.
fn key(file: &PathBuf) -> anyhow::Result<HeaderValue> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("engine's key {name}"))?;
    let Ok(mut value) = HeaderValue::try_from(format!("Bearer {}", text.trim())) else {
        bail!(
            "engine's key {name}: it has characters that no header can have; give its file a line of text"
        );
    };
    value.set_sensitive(true);
    Ok(value)
}
