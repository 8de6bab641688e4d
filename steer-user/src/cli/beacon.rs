//! `steer beacon`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::error::Failure;
use crate::beacon::{self, BeaconConfig};
use crate::telemetry::{self, LogFormat};

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
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        beacon.serve(stop).await;
        tracing::info!("beacon stopped");
        Ok(())
    }
}
