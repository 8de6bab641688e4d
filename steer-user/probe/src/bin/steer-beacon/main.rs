//! `steer-beacon`: the beacon as a process.

mod engine;
mod print;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use steer_probe::beacon::{Beacon, BeaconConfig};
use steer_telemetry::{LogFormat, Supervisor};
use tokio::signal::unix::{SignalKind, signal};

/// Interval of watchdog messages to the service manager.
const PULSE: Duration = Duration::from_secs(1);

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  the command line is wrong";

/// Run a beacon, which answers probes beside a backend.
#[derive(Debug, Parser)]
#[command(name = "steer-beacon", version, after_help = EXIT_CODES)]
struct Options {
    /// UDP address for probes.
    #[arg(long, default_value = "[::]:7100")]
    listen: SocketAddr,
    /// File of the CA of node certificates.
    #[arg(long, default_value = "/etc/steer-beacon/ca.pem")]
    ca: PathBuf,
    /// File of the beacon's certificate.
    #[arg(long, required_unless_present = "print")]
    cert: Option<PathBuf>,
    /// File of its key.
    #[arg(long, required_unless_present = "print")]
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
    /// Format of logs: text or json. The variable STEER_LOG sets the filter.
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(flatten)]
    engine: engine::Engine,
    #[command(flatten)]
    print: print::Print,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.print.text() {
        Some(text) => text.map(|text| print!("{text}")),
        None => options.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steer-beacon: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    #[tokio::main(flavor = "current_thread")]
    async fn run(self) -> Result<()> {
        steer_telemetry::start(self.log_format)?;
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        let listen = self.listen;
        let config = self.config()?;
        let beacon = Beacon::bind(&config).await?;
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

    fn config(self) -> Result<BeaconConfig> {
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
