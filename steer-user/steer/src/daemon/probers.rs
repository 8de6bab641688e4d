//! Thread of the probers.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use steer_core::{config::Config, control::ConnectionRequest};
use steer_probe::probe::{
    self, Budget, HttpTls, ProbeSettings, ProbeTarget, ProbeTls, ResultSender,
    confirmation::{Outcome, confirm},
};
use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// Share of the probe interval by which it varies.
const JITTER: f64 = 0.1;
/// Longest wait for a connection that confirms or contradicts what packets look like.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(150);

/// A connection of this node's own to a backend, and its outcome.
pub(crate) type Confirmed = (ConnectionRequest, Outcome);

/// A thread for probes alone. What else the daemon does, a page of metrics for instance, keeps none of them waiting, and
/// they need not wake each other across threads, which costs more than the probes themselves.
///
/// The thread ends with this value, and all probers with it.
pub(crate) struct Probing {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Probing {
    /// Starts the thread, in the network namespace of this one.
    ///
    /// # Errors
    /// If the system gives none.
    pub(crate) fn start() -> Result<Self> {
        const THREAD: &str = "a thread for probes";
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context(THREAD)?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("probes".to_owned());
        let wait = move || drop(runtime.block_on(ended));
        thread.spawn(wait).context(THREAD)?;
        Ok(Self { handle, _end: end })
    }

    /// Tries a connection to a backend, and sends how it ended.
    pub(crate) fn confirm(&self, request: ConnectionRequest, confirmed: mpsc::Sender<Confirmed>) {
        self.handle.spawn(async move {
            let outcome = confirm(request.address, CONFIRMED_WITHIN).await;
            // Nobody waits for it once the daemon stops.
            let _ = confirmed.send((request, outcome)).await;
        });
    }

    /// Begins to probe all backends.
    ///
    /// # Errors
    /// If the certificates cannot be used.
    pub(crate) fn spawn(
        &self,
        config: &Config,
        measured: &ResultSender,
    ) -> Result<Vec<JoinHandle<()>>> {
        let _on_its_thread = self.handle.enter();
        let settings = &config.probe;
        let tls = match &settings.files {
            Some(files) => {
                let loaded = ProbeTls::load(&files.ca, &files.cert, &files.key)?;
                Some(Arc::new(loaded))
            }
            None => None,
        };
        let mut probers = Vec::new();
        if let Some(tls) = tls.clone() {
            probers.push(tokio::spawn(async move { tls.watch_files().await }));
        }
        let count = config.backends.iter().map(|b| b.probes.len()).sum();
        let settings = ProbeSettings {
            node: config.node.name.clone(),
            budget: Budget::new(
                count,
                settings.interval,
                settings.handshake_every,
                f64::from(settings.budget),
            ),
            fast_probes: settings.rise.max(settings.fall),
            timeout: settings.timeout,
            jitter: JITTER,
            tls,
            web: HttpTls::new(settings.http_ca.as_deref(), settings.http_name.clone())?,
        };
        for backend in &config.backends {
            let targets = backend.probes.iter().map(|method| ProbeTarget {
                name: backend.name.clone(),
                region: backend.region.clone(),
                address: backend.asked_at(method),
                method: method.clone(),
            });
            let (targets, require) = (targets.collect(), backend.require);
            probers.extend(probe::spawn(targets, require, &settings, measured));
        }
        Ok(probers)
    }
}
