//! `steer decap`.

use std::net::IpAddr;

use anyhow::Context as _;
use clap::Args;
use steer_telemetry::LogFormat;
use tokio::signal::unix::{SignalKind, signal};

use super::error::Failure;
use steer_dataplane as dataplane;

#[derive(Debug, Args)]
pub(super) struct Decap {
    /// Interface on which packets of the nodes arrive.
    #[arg(long)]
    interface: String,
    /// Outer source address or prefix of a node (its `encap.sources`); may be repeated.
    #[arg(long = "from", value_name = "ADDRESS[/LEN]", required = true, value_parser = source)]
    from: Vec<(IpAddr, u8)>,
    /// UDP port of mode gue (the nodes' `encap.gue_port`).
    #[arg(long, value_name = "PORT", default_value_t = 6080)]
    gue_port: u16,
    /// Use generic XDP, if the driver has no native XDP.
    #[arg(long)]
    generic: bool,
}

fn source(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong =
        || format!("{text:?} is not an address or prefix: write one like 10.0.0.11 or 10.0.8.0/24");
    let (address, len) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    if len.is_empty() && !text.contains('/') {
        return Ok((address, width));
    }
    let len = len.parse().ok().filter(|len| (1..=width).contains(len));
    len.map(|len| (address, len)).ok_or_else(wrong)
}

impl Decap {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, format: LogFormat) -> Result<(), Failure> {
        steer_telemetry::start(format)?;
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        let decap =
            dataplane::Decap::attach(&self.interface, &self.from, self.gue_port, self.generic)?;
        let from: Vec<String> = self
            .from
            .iter()
            .map(|(address, len)| format!("{address}/{len}"))
            .collect();
        tracing::info!(
            interface = %self.interface,
            from = %from.join(" "),
            "decapsulating packets"
        );
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
