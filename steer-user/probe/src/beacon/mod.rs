//! The beacon: answers a node's probes beside a backend, with the load it sees.

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
use self::peers::{Peers, Pings, Place};
use crate::pki::{Identity, Marks, PkiError, follow};
use crate::probe::{
    BACKEND_UP, DRAINING, Load, OrcaLoadReport, PROBE_BUDGET, TROUBLE, TROUBLE_FOR, wire,
};

/// How long the last packets may take on shutdown.
const LINGER: Duration = Duration::from_secs(1);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a beacon needs to know.
#[derive(Clone, Debug)]
pub struct BeaconConfig {
    /// UDP address to answer probes at.
    pub listen: SocketAddr,
    /// The CA that nodes' certificates must come from.
    pub ca: PathBuf,
    /// The beacon's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The backend's TCP address on this machine; while it refuses, probes fail.
    pub backend_check: Option<SocketAddr>,
    /// The engine there, to be watched.
    pub engine: Option<EngineConfig>,
    /// While this file is there the backend drains.
    pub drain_file: Option<PathBuf>,
    /// How many probes a second one node is asked to send at most.
    pub probe_budget: Option<f64>,
    /// How many connections one node may have at once. One more closes its oldest.
    pub connections_per_node: usize,
}

/// Why a beacon can't start.
#[derive(Debug, thiserror::Error)]
pub enum BeaconError {
    /// Certificates can't be read.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Certificates can't be used.
    #[error("beacon: TLS can't be set up: {0}; check its certificate, key and CA")]
    Tls(String),
    /// The address can't be had.
    #[error(
        "beacon: can't listen at {address} (UDP): {source}; check that the address is free and local"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The backend isn't on this machine.
    #[error("beacon: backend {0} is not on this machine; a beacon guards only what runs beside it")]
    Remote(SocketAddr),
    /// The load can't be read.
    #[error("beacon: {path}: {reason}; mount /proc")]
    Load {
        /// The file.
        path: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// A beacon that listens.
#[derive(Debug)]
pub struct Beacon {
    endpoint: Endpoint,
    address: SocketAddr,
    state: State,
    certificates: Certificates,
}

/// What a beacon shows and whom it trusts, to be read again.
#[derive(Debug)]
struct Certificates {
    endpoint: Endpoint,
    config: BeaconConfig,
    marks: Mutex<Marks>,
}

impl Certificates {
    fn refresh(&self) -> Result<bool, BeaconError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if !marks.changed() {
            return Ok(false);
        }
        tls::verify(&self.config)?;
        // Handshakes go by it from now on.
        self.endpoint
            .set_server_config(Some(tls::server(&self.config)?));
        Ok(true)
    }
}

#[derive(Clone, Debug)]
struct State {
    load: Arc<load::Sampler>,
    backend: Option<Arc<backend::Check>>,
    engine: Option<Arc<engine::Watch>>,
    draining: Arc<watch::Sender<bool>>,
    drain_file: Option<Arc<drain::Follow>>,
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
    /// Listens, and checks the backend a first time. Answers come with [`Beacon::serve`].
    pub async fn bind(config: &BeaconConfig) -> Result<Self, BeaconError> {
        let marks = Marks::of([&*config.ca, &*config.cert, &*config.key]);
        let tls = tls::server(config)?;
        let load = Arc::new(load::Sampler::start()?);
        let backend = match config.backend_check {
            Some(address) => Some(Arc::new(backend::Check::start(address).await?)),
            None => None,
        };
        let engine = match config.engine.clone() {
            Some(engine) => {
                backend::on_this_machine(engine.metrics)?;
                backend::on_this_machine(engine.api)?;
                Some(Arc::new(engine::Watch::start(engine)))
            }
            None => None,
        };
        let drain_file = config.drain_file.clone();
        let listen = |source| BeaconError::Listen {
            address: config.listen,
            source,
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
                drain_file: drain_file.map(|file| Arc::new(drain::Follow::start(file))),
                probe_budget: config.probe_budget,
                peers: Peers::new(config.connections_per_node),
            },
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The switch by which the operator says that the backend shall get no new work.
    pub fn drain_switch(&self) -> Arc<watch::Sender<bool>> {
        Arc::clone(&self.state.draining)
    }

    /// Answers until `shutdown` is ready, then tells every node that it goes.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let following = follow("beacon", || self.certificates.refresh());
        tokio::pin!(shutdown, following);
        loop {
            let incoming = tokio::select! {
                () = &mut shutdown => break,
                () = &mut following => break,
                incoming = self.endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            if !incoming.remote_address_validated() {
                // Whoever writes another's address into a packet has a tenth of its bytes sent there, and no handshake
                // begun. Can't fail: it has not been retried.
                drop(incoming.retry());
                continue;
            }
            let (end, ended) = oneshot::channel();
            let place = self.state.peers.enter(incoming.remote_address().ip(), end);
            tokio::spawn(welcome(incoming, place, ended, self.state.clone()));
        }
        self.endpoint.close(0_u8.into(), b"beacon shuts down");
        let _ = tokio::time::timeout(LINGER, self.endpoint.wait_idle()).await;
    }
}

async fn welcome(
    incoming: Incoming,
    mut place: Place,
    ended: oneshot::Receiver<Infallible>,
    state: State,
) {
    let peer = incoming.remote_address();
    let connected = tokio::select! {
        connected = timeout(HANDSHAKE_TIMEOUT, incoming.into_future()) => connected,
        _ = ended => {
            tracing::debug!(%peer, "handshake ended to make room for younger ones");
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
            let node = node(&connection).unwrap_or_default();
            let own = connection.clone();
            let close = move || own.close(2_u8.into(), b"the node has younger connections enough");
            if place.is(&node, close) {
                tracing::warn!(%peer, node, "the node has enough connections: the oldest is closed");
            }
            answer(connection, &state).await;
        }
        Err(error) => tracing::warn!(%peer, %error, "probe connection refused"),
    }
}

/// Whose certificate it is; it was verified in the handshake.
fn node(connection: &Connection) -> Option<String> {
    let shown = connection.peer_identity()?;
    let chain = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let identity = Identity::from_certificate(chain.first()?).ok()?;
    Some(identity.to_string())
}

/// Answers pings until the connection ends.
async fn answer(connection: Connection, state: &State) {
    let mut pings = Pings::new(Instant::now());
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
        let draining =
            *self.draining.borrow() || self.drain_file.as_ref().is_some_and(|file| file.is_there());
        tell(DRAINING, u8::from(draining).into());
        let up = self.backend.as_ref().map(|backend| backend.up());
        if let Some(up) = up {
            tell(BACKEND_UP, u8::from(up).into());
        }
        // One that takes no connections is dead, and not hung.
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
