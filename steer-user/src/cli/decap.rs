//! `steer decap`.

use std::net::IpAddr;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::error::Failure;
use crate::{
    dataplane,
    telemetry::{self, LogFormat},
};

#[derive(Debug, Args)]
pub(super) struct Decap {
    /// Interface that the nodes' packets come in by.
    #[arg(long)]
    interface: String,
    /// Outer source address of a node (its `ipip.sources`); once for each.
    #[arg(long = "from", value_name = "ADDRESS", required = true)]
    from: Vec<IpAddr>,
    /// Use generic XDP, where the driver has no native one.
    #[arg(long)]
    generic: bool,
}

impl Decap {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, format: LogFormat) -> Result<(), Failure> {
        telemetry::start(format)?;
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        let decap = dataplane::Decap::attach(&self.interface, &self.from, self.generic)?;
        tracing::info!(interface = %self.interface, from = ?self.from, "outer headers are stripped");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let (packets, drops) = decap.counters()?;
        for (reason, count) in drops.into_iter().filter(|(_, count)| *count > 0) {
            tracing::warn!(reason = reason.name(), count, "packets dropped");
        }
        tracing::info!(packets, "stopped");
        Ok(())
    }
}
