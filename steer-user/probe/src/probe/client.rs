//! Probers of one backend.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::http_tls::HttpTls;
use super::method::Method;
use super::prober::Prober;
use super::quorum::Quorum;
use super::schedule::{Budget, Schedule};
use super::{Measurement, ProbeFailure, ProbeTls, ResultSender, Sample};

/// First pause after a failed reconnection; doubled up to the interval.
const FIRST_BACKOFF: Duration = Duration::from_millis(25);
/// Consecutive timeouts after which the connection is replaced: a restarted beacon does not know
/// the old one.
const MAX_TIMEOUTS_PER_CONNECTION: u32 = 2;
/// Limit of concurrent handshakes: more of them would slow each other down until they time out.
static OPENING: Semaphore = Semaphore::const_new(64);

/// A backend, and one method of probing it.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// Name of the backend, required in the certificate of its beacon.
    pub name: String,
    /// Region of the backend, required in the certificate of its beacon.
    pub region: String,
    /// Address that probes go to.
    pub address: SocketAddr,
    /// Probe method.
    pub method: Method,
}

/// Probe settings.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// Name of this node, which influences when probes are sent.
    pub node: String,
    /// Probe budget, shared by all probes of the node.
    pub budget: Arc<Budget>,
    /// Number of faster probes after a change of a probe's outcome.
    pub fast_probes: u32,
    /// Timeout of a reply or a handshake.
    pub timeout: Duration,
    /// Random part of the interval, from 0 to 1, so that nodes do not ping in lockstep.
    pub jitter: f64,
    /// Certificates for beacons.
    pub tls: Option<Arc<ProbeTls>>,
    /// Certificates for other servers.
    pub web: HttpTls,
}

/// Probes one backend with all `targets`, until the [`ResultReceiver`](super::ResultReceiver) of `outbox` is dropped
/// or the handles are aborted. The outcome is good if `require` of them succeed.
///
/// Each probe gives at most one [`Measurement`]; so does the loss of a beacon's connection, and
/// each failed attempt to reconnect. Must be called in a tokio runtime.
pub fn spawn(
    targets: Vec<ProbeTarget>,
    require: usize,
    settings: &ProbeSettings,
    outbox: &ResultSender,
) -> Vec<JoinHandle<()>> {
    let combine = Arc::new(Mutex::new(Quorum::new(targets.len(), require)));
    let mut tasks = Vec::new();
    for (index, target) in targets.into_iter().enumerate() {
        let closed = outbox.clone();
        let pace = Schedule::new(Arc::clone(&settings.budget), settings.fast_probes);
        let mut prober = ProbeTask {
            target,
            settings: settings.clone(),
            outbox: outbox.clone(),
            combine: Arc::clone(&combine),
            index,
            pace,
            retries: 0,
        };
        tasks.push(tokio::spawn(async move {
            tokio::select! {
                () = closed.closed() => {}
                () = prober.run() => {}
            }
        }));
    }
    tasks
}

enum SessionEnd {
    Lost(ProbeFailure),
    Stopped,
}

struct ProbeTask {
    target: ProbeTarget,
    settings: ProbeSettings,
    outbox: ResultSender,
    combine: Arc<Mutex<Quorum>>,
    /// Index among the probes of the backend.
    index: usize,
    pace: Schedule,
    /// Reconnections since the last answered ping.
    retries: u32,
}

impl ProbeTask {
    async fn run(&mut self) {
        let name = format!("{} {}", self.target.name, self.target.method);
        sleep(self.pace.phase(&self.settings.node, &name)).await;
        loop {
            let Err(end) = self.session().await;
            let SessionEnd::Lost(failure) = end else {
                return;
            };
            if self.send(Err(failure)).await.is_err() {
                return;
            }
            let usual = self.pace.next(false, None);
            let doubled = FIRST_BACKOFF * (1 << self.retries.saturating_sub(1).min(10));
            if self.retries > 0 {
                sleep(self.jittered(doubled.min(usual))).await;
            }
            self.retries += 1;
        }
    }

    /// Connects, then sends probes until the connection is lost.
    async fn session(&mut self) -> Result<Infallible, SessionEnd> {
        let mut session = {
            // The semaphore is never closed.
            let _place = OPENING.acquire().await;
            Prober::open(&self.target, &self.settings)
                .await
                .map_err(SessionEnd::Lost)?
        };
        // Reconnections of a node are spread over time.
        let every = self.settings.budget.handshake_every();
        let mut opened = Instant::now();
        let mut renew_after = every.mul_f64(1.0 - 0.5 * rand::random::<f64>());
        let mut timeouts = 0;
        // Network errors, which may be forged, hasten at most every other probe.
        let mut hastened = false;
        loop {
            let started = Instant::now();
            let outcome = session.probe(self.settings.timeout, &self.pace).await;
            match &outcome {
                Ok(_) => (timeouts, self.retries) = (0, 0),
                Err(
                    ProbeFailure::BackendDown
                    | ProbeFailure::Hung { .. }
                    | ProbeFailure::NotReady { .. }
                    | ProbeFailure::Status { .. }
                    | ProbeFailure::Malformed(_),
                ) => timeouts = 0,
                Err(ProbeFailure::Timeout) if timeouts + 1 < MAX_TIMEOUTS_PER_CONNECTION => {
                    timeouts += 1
                }
                Err(failure) => return Err(SessionEnd::Lost(failure.clone())),
            }
            let allowed = outcome.as_ref().ok().and_then(|s| s.report.probe_budget());
            let period = self.pace.next(outcome.is_ok(), allowed);
            self.send(outcome).await?;

            let wait = self.jittered(period).saturating_sub(started.elapsed());
            hastened = tokio::select! {
                () = sleep(wait) => false,
                lost = session.lost(!hastened) => match lost {
                    Some(failure) => return Err(SessionEnd::Lost(failure)),
                    None => true,
                },
            };
            if opened.elapsed() >= renew_after {
                let _place = OPENING.acquire().await;
                let renewed = session.renew(&self.target, &self.settings).await;
                renewed.map_err(SessionEnd::Lost)?;
                opened = Instant::now();
                renew_after = every;
            }
        }
    }

    async fn send(&self, outcome: Result<Sample, ProbeFailure>) -> Result<(), SessionEnd> {
        let counts = {
            let mut combine = self.combine.lock().unwrap_or_else(PoisonError::into_inner);
            combine.record(self.index, outcome)
        };
        let Some(outcome) = counts else { return Ok(()) };
        let measurement = Measurement {
            backend: self.target.name.clone(),
            at: Instant::now(),
            outcome,
        };
        if self.outbox.send(measurement).await {
            Ok(())
        } else {
            Err(SessionEnd::Stopped)
        }
    }

    /// Returns `base` minus a random part of at most `jitter` of it.
    fn jittered(&self, base: Duration) -> Duration {
        let share = self.settings.jitter.clamp(0.0, 1.0) * rand::random::<f64>();
        base.mul_f64(1.0 - share).max(Duration::from_millis(1))
    }
}
