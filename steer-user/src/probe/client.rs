//! The prober of one backend.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::link::Link;
use super::{Measurement, ProbeFailure, ProbeTls, Sample};
use crate::pki::{Identity, IdentityKind};

/// The first wait after a failed reconnection; doubles up to the interval.
const FIRST_BACKOFF: Duration = Duration::from_millis(25);
/// So many timeouts in a row replace the connection: a restarted beacon doesn't know the old one.
const TIMEOUTS_PER_LINK: u32 = 2;

/// Whom to probe.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// The backend's name; its beacon's certificate must carry it.
    pub name: String,
    /// The backend's region; its beacon's certificate must carry it.
    pub region: String,
    /// Where the beacon listens (UDP).
    pub address: SocketAddr,
}

/// How to probe.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// From one ping to the next.
    pub interval: Duration,
    /// Longest wait for a reply or a handshake.
    pub timeout: Duration,
    /// Share of the interval, from 0 to 1, by which it varies at random, so that nodes don't ping
    /// in step.
    pub jitter: f64,
    /// How often a fresh connection with a full handshake replaces the old one.
    pub handshake_every: Duration,
    /// Certificates.
    pub tls: Arc<ProbeTls>,
}

/// Probes `target` until the receiver of `tx` is dropped or the handle is aborted.
///
/// Each ping gives one [`Measurement`]; so does each loss of the connection, when it happens, and
/// each failed attempt to reconnect. Must be called in a tokio runtime.
pub fn spawn(
    target: ProbeTarget,
    settings: ProbeSettings,
    tx: mpsc::Sender<Measurement>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let closed = tx.clone();
        let mut prober = Prober {
            target,
            settings,
            tx,
            retries: 0,
        };
        tokio::select! {
            () = closed.closed() => {}
            () = prober.run() => {}
        }
    })
}

enum End {
    Lost(ProbeFailure),
    Stopped,
}

struct Prober {
    target: ProbeTarget,
    settings: ProbeSettings,
    tx: mpsc::Sender<Measurement>,
    /// Reconnections since the last ping that was answered.
    retries: u32,
}

impl Prober {
    async fn run(&mut self) {
        loop {
            let Err(end) = self.session().await;
            let End::Lost(failure) = end else { return };
            if self.send(Err(failure)).await.is_err() {
                return;
            }
            let doubled = FIRST_BACKOFF * (1 << self.retries.saturating_sub(1).min(10));
            if self.retries > 0 {
                sleep(self.jittered(doubled.min(self.settings.interval))).await;
            }
            self.retries += 1;
        }
    }

    /// Connects, then pings until the connection is lost.
    async fn session(&mut self) -> Result<Infallible, End> {
        let mut link = self.open().await?;
        let mut opened = Instant::now();
        let mut timeouts = 0;
        loop {
            let started = Instant::now();
            let outcome = link.ping(self.settings.timeout).await;
            match &outcome {
                Ok(_) => (timeouts, self.retries) = (0, 0),
                Err(
                    ProbeFailure::BackendDown
                    | ProbeFailure::Hung { .. }
                    | ProbeFailure::Malformed(_),
                ) => timeouts = 0,
                Err(ProbeFailure::Timeout) if timeouts + 1 < TIMEOUTS_PER_LINK => timeouts += 1,
                Err(failure) => return Err(End::Lost(failure.clone())),
            }
            self.send(outcome).await?;

            let wait = self
                .jittered(self.settings.interval)
                .saturating_sub(started.elapsed());
            tokio::select! {
                () = sleep(wait) => {}
                failure = link.lost() => return Err(End::Lost(failure)),
            }
            if opened.elapsed() >= self.settings.handshake_every {
                link = self.open().await?;
                opened = Instant::now();
            }
        }
    }

    async fn open(&self) -> Result<Link, End> {
        let ProbeTarget {
            name,
            region,
            address,
        } = &self.target;
        let expected = Identity::new(IdentityKind::Beacon, region, name)
            .map_err(|e| End::Lost(ProbeFailure::Local(e.to_string())))?;
        let ProbeSettings {
            interval,
            timeout,
            tls,
            ..
        } = &self.settings;
        // Never idle between two pings; what is lost is found by the pings.
        let idle = interval
            .saturating_mul(4)
            .saturating_add(*timeout)
            .max(Duration::from_secs(10));
        Link::open(*address, expected, tls, *timeout, idle)
            .await
            .map_err(End::Lost)
    }

    async fn send(&self, outcome: Result<Sample, ProbeFailure>) -> Result<(), End> {
        let backend = self.target.name.clone();
        let measurement = Measurement {
            backend,
            at: Instant::now(),
            outcome,
        };
        self.tx.send(measurement).await.map_err(|_| End::Stopped)
    }

    /// `base`, less a random part of up to `jitter` of it.
    fn jittered(&self, base: Duration) -> Duration {
        let share = self.settings.jitter.clamp(0.0, 1.0) * rand::random::<f64>();
        base.mul_f64(1.0 - share).max(Duration::from_millis(1))
    }
}
