//! The beacon: answers a node's probes beside a backend, and reports its load.

mod backend;
mod drain;
mod engine;
mod handshakes;
mod listener;
mod load;
mod peers;
pub(crate) mod tls;

use std::convert::Infallible;
use std::future::{Future, IntoFuture as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

pub use self::engine::{
    Completion, Engine, EngineConfig, Format, Health, Limits, Profile, ProfileError, Selector,
    Sleep, missing,
};
use self::peers::{PeerSlot, Peers, PingRate};
use crate::pki::{FileStamps, Identity, PkiError, watch_files};
use crate::probe::{
    BACKEND_UP, DRAINING, Load, OrcaLoadReport, PROBE_BUDGET, TROUBLE, TROUBLE_FOR, wire,
};

/// Time for the last packets on shutdown.
const LINGER: Duration = Duration::from_secs(1);
/// Timeout of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Configuration of a beacon.
#[derive(Clone, Debug)]
pub struct BeaconConfig {
    /// UDP address for probes.
    pub listen: SocketAddr,
    /// File of the CA of node certificates.
    pub ca: PathBuf,
    /// File of the beacon's certificate.
    pub cert: PathBuf,
    /// File of its key.
    pub key: PathBuf,
    /// TCP address of the backend on this machine; while it refuses connections, probes fail.
    pub backend_check: Option<SocketAddr>,
    /// Engine to watch.
    pub engine: Option<EngineConfig>,
    /// Drain file: while it exists, the backend drains.
    pub drain_file: Option<PathBuf>,
    /// Most probes per second that one node is asked to send.
    pub probe_budget: Option<f64>,
    /// Maximum number of connections per node. One more closes its oldest.
    pub connections_per_node: usize,
}

/// Reason why a beacon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BeaconError {
    /// Certificates cannot be read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Certificates cannot be used.
    #[error("beacon: TLS cannot be set up: {0}; check its certificate, key and CA")]
    Tls(String),
    /// The socket cannot be opened.
    #[error(
        "beacon: cannot listen on {address} (UDP): {cause}; check that the address is free and \
         local"
    )]
    Listen {
        /// Address.
        address: SocketAddr,
        /// Error of the system.
        cause: std::io::Error,
    },
    /// The backend is not on this machine.
    #[error(
        "beacon: backend {0} is not on this machine; a beacon only checks a backend on its \
             own machine"
    )]
    Remote(SocketAddr),
    /// The load cannot be read.
    #[error("beacon: {path}: {reason}; mount /proc")]
    Load {
        /// Path of the file.
        path: &'static str,
        /// Description of the error.
        reason: String,
    },
}

/// A listening beacon.
#[derive(Debug)]
pub struct Beacon {
    endpoint: Endpoint,
    address: SocketAddr,
    state: State,
    certificates: Certificates,
}

/// Certificate and trusted CA of a beacon, for reloading.
#[derive(Debug)]
struct Certificates {
    endpoint: Endpoint,
    config: BeaconConfig,
    marks: Mutex<FileStamps>,
}

impl Certificates {
    fn refresh(&self) -> Result<bool, BeaconError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if !marks.changed() {
            return Ok(false);
        }
        tls::verify(&self.config)?;
        // New handshakes use it from now on.
        self.endpoint
            .set_server_config(Some(tls::server(&self.config)?));
        Ok(true)
    }
}

#[derive(Clone, Debug)]
struct State {
    load: Arc<load::Sampler>,
    backend: Option<Arc<backend::BackendCheck>>,
    engine: Option<Arc<engine::EngineWatch>>,
    draining: Arc<watch::Sender<bool>>,
    drain_file: Option<Arc<drain::DrainSwitch>>,
    probe_budget: Option<f64>,
    peers: Peers,
}

/// Runs a beacon until `shutdown` is ready.
pub async fn run(
    config: BeaconConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BeaconError> {
    Beacon::bind(&config).await?.serve(shutdown).await;
    Ok(())
}

impl Beacon {
    /// Opens the socket, and runs the first check of the backend. [`Beacon::serve`] starts to
    /// answer.
    pub async fn bind(config: &BeaconConfig) -> Result<Self, BeaconError> {
        let marks = FileStamps::read([&*config.ca, &*config.cert, &*config.key]);
        let tls = tls::server(config)?;
        let load = Arc::new(load::Sampler::start()?);
        let backend = match config.backend_check {
            Some(address) => Some(Arc::new(backend::BackendCheck::start(address).await?)),
            None => None,
        };
        let engine = match config.engine.clone() {
            Some(engine) => {
                backend::on_this_machine(engine.metrics)?;
                backend::on_this_machine(engine.api)?;
                Some(Arc::new(engine::EngineWatch::start(engine)))
            }
            None => None,
        };
        let drain_file = config.drain_file.clone();
        let listen = |cause| BeaconError::Listen {
            address: config.listen,
            cause,
        };
        let endpoint = Endpoint::server(tls, config.listen).map_err(listen)?;
        let address = endpoint.local_addr().map_err(listen)?;
        let draining = Arc::new(watch::Sender::new(false));
        Ok(Self {
            certificates: Certificates {
                endpoint: endpoint.clone(),
                config: config.clone(),
                marks: Mutex::new(marks),
            },
            endpoint,
            address,
            state: State {
                load,
                backend,
                engine,
                draining,
                drain_file: drain_file.map(|file| Arc::new(drain::DrainSwitch::start(file))),
                probe_budget: config.probe_budget,
                peers: Peers::new(config.connections_per_node),
            },
        })
    }

    /// Returns the local address.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the drain switch, by which the operator stops new work for the backend.
    pub fn drain_switch(&self) -> Arc<watch::Sender<bool>> {
        Arc::clone(&self.state.draining)
    }

    /// Answers until `shutdown` is ready, then notifies every node.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let following = watch_files("beacon", || self.certificates.refresh());
        tokio::pin!(shutdown, following);
        loop {
            let incoming = tokio::select! {
                () = &mut shutdown => break,
                () = &mut following => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            if !incoming.remote_address_validated() {
                // A spoofed source address receives a tenth of the attacker's bytes, and no
                // handshake starts. Cannot fail: it has not been retried.
                drop(incoming.retry());
                continue;
            }
            let (end, ended) = oneshot::channel();
            let place = self.state.peers.admit(incoming.remote_address().ip(), end);
            tokio::spawn(accept(incoming, place, ended, self.state.clone()));
        }
        self.endpoint.close(0_u8.into(), b"beacon is stopping");
        let _ = tokio::time::timeout(LINGER, self.endpoint.wait_idle()).await;
    }
}

async fn accept(
    incoming: Incoming,
    mut place: PeerSlot,
    ended: oneshot::Receiver<Infallible>,
    state: State,
) {
    let peer = incoming.remote_address();
    let connected = tokio::select! {
        connected = timeout(HANDSHAKE_TIMEOUT, incoming.into_future()) => connected,
        _ = ended => {
            tracing::debug!(%peer, "handshake ended to make room for newer ones");
            return;
        }
    };
    let Ok(connected) = connected else {
        let after_s = HANDSHAKE_TIMEOUT.as_secs();
        tracing::debug!(%peer, after_s, "handshake took too long");
        return;
    };
    match connected {
        Ok(connection) => {
            let node = node_name(&connection).unwrap_or_default();
            let own = connection.clone();
            let close = move || own.close(2_u8.into(), b"the node has enough newer connections");
            if place.is(&node, close) {
                tracing::warn!(%peer, node, "the node has enough connections: the oldest is closed");
            }
            answer(connection, &state).await;
        }
        Err(error) => tracing::warn!(%peer, %error, "probe connection refused"),
    }
}

/// Returns the name in the peer's certificate, which the handshake has verified.
fn node_name(connection: &Connection) -> Option<String> {
    let shown = connection.peer_identity()?;
    let chain = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let identity = Identity::from_certificate(chain.first()?).ok()?;
    Some(identity.to_string())
}

/// Answers pings until the connection ends.
async fn answer(connection: Connection, state: &State) {
    let mut pings = PingRate::new(Instant::now());
    while let Ok(datagram) = connection.read_datagram().await {
        if !pings.allow(Instant::now()) {
            continue;
        }
        let peer = connection.remote_address();
        let reply = wire::decode_ping(&datagram).and_then(|sequence| {
            let limit = connection.max_datagram_size().unwrap_or(0);
            wire::encode_reply(sequence, &state.report(), limit)
        });
        let sent = match reply {
            Ok(reply) => connection.send_datagram(reply).map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        if let Err(error) = sent {
            tracing::warn!(%peer, error, "probe not answered");
            connection.close(1_u8.into(), error.as_bytes());
        }
    }
}

impl State {
    fn report(&self) -> OrcaLoadReport {
        let now = Instant::now();
        let engine = self.engine.as_ref();
        let mut report = OrcaLoadReport::default();
        let mut load = engine.map_or_else(Load::default, |engine| engine.load(now));
        (load.cpu, load.memory) = self.load.machine();
        load.write(&mut report);
        let mut tell = |key: &str, value: f64| report.named_metrics.insert(key.to_owned(), value);
        let draining = *self.draining.borrow()
            || self
                .drain_file
                .as_ref()
                .is_some_and(|file| file.is_draining());
        tell(DRAINING, u8::from(draining).into());
        let up = self.backend.as_ref().map(|backend| backend.up());
        if let Some(up) = up {
            tell(BACKEND_UP, u8::from(up).into());
        }
        // A backend that accepts no connections is down, not hung.
        if up != Some(false)
            && let Some((trouble, since)) = engine.and_then(|engine| engine.trouble(now))
        {
            tell(TROUBLE, f64::from(trouble as u8));
            tell(TROUBLE_FOR, since.as_secs_f64());
        }
        if let Some(budget) = self.probe_budget {
            tell(PROBE_BUDGET, budget);
        }
        report
    }
}
