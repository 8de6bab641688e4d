//! `steer beacon`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::error::Failure;
use crate::beacon::{self, BeaconConfig};
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
    #[arg(long)]
    cert: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
    /// The backend's TCP address on this machine: while it refuses connections, probes fail.
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<SocketAddr>,
}

impl Beacon {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, format: LogFormat) -> Result<(), Failure> {
        telemetry::start(format)?;
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        let config = BeaconConfig {
            listen: self.listen,
            ca: self.ca,
            cert: self.cert,
            key: self.key,
            backend_check: self.backend,
        };
        let beacon = beacon::Beacon::bind(&config).await?;
        tracing::info!(listen = %beacon.local_addr(), "beacon answers");
        let stop = async {
            let mut supervisor = Supervisor::new(PULSE);
            let status = format!("answers at {}", self.listen);
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
}
