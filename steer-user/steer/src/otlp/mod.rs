//! Export of metrics to an OpenTelemetry collector by OTLP over HTTP: everything on the page of
//! metrics, at the interval in `[telemetry]`. Nothing else waits for the collector.

mod backoff;
mod client;
mod convert;
mod health;
mod message;
mod outcome;
mod start_times;

use std::{
    future::pending,
    time::{Instant, SystemTime},
};

use prost::Message as _;
use steer_core::config::{Config, Otlp};
use tokio::{sync::watch, time::sleep};
use tracing::debug;

use self::{
    backoff::Backoff, convert::Conversion, health::CollectorHealth, start_times::StartTimes,
};
use crate::api::Monitor;

/// Destination and identity of the export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    otlp: Otlp,
    node: String,
    region: String,
}

impl Target {
    /// Returns the target of a configuration, if it has one.
    #[must_use]
    pub fn from_config(config: &Config) -> Option<Self> {
        let otlp = config.otlp.clone()?;
        Some(Self {
            otlp,
            node: config.node.name.clone(),
            region: config.node.region.clone(),
        })
    }
}

/// Exports metrics to the configured collector, and follows changes of the configuration.
pub async fn export(monitor: Monitor, mut target: watch::Receiver<Option<Target>>) {
    loop {
        let now = target.borrow_and_update().clone();
        let send = async {
            match &now {
                Some(target) => send_to(target, &monitor).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = send => {}
            changed = target.wait_for(|next| *next != now) => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn send_to(target: &Target, monitor: &Monitor) {
    let Target { otlp, node, region } = target;
    let mut pace = Backoff::new(otlp.interval);
    let mut standing = CollectorHealth::default();
    let mut starts = StartTimes::default();
    loop {
        let begun = Instant::now();
        let families = match monitor.families().await {
            Ok(families) => families,
            Err(why) => {
                debug!(why, "no metrics to send");
                sleep(otlp.interval).await;
                continue;
            }
        };
        if !standing.has_worked() {
            // A new collector has not received the start of any series yet.
            starts = StartTimes::default();
        }
        let conversion = Conversion::new(SystemTime::now(), &mut starts);
        let request = message::request(node, region, conversion.metrics(&families));
        let outcome = client::send(otlp, request.encode_to_vec().into()).await;
        monitor.metrics.exported(standing.record(otlp, &outcome));
        sleep(pace.after(&outcome, begun.elapsed(), rand::random())).await;
    }
}
