//! Probes of backends without a beacon: TCP connections, and GETs over HTTP/1.1, TLS or QUIC on a
//! persistent connection.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    Load, OrcaLoadReport, ProbeFailure, Sample, beacon_connection::classify, http_tls::HttpTls,
    method::Transport, socket, tcp_close::close_in_order,
};

/// Upper bound of the bytes read from an answer.
const MAX_RESPONSE_BYTES: usize = 64 << 10;
const PROBE_AGENT: HeaderValue = HeaderValue::from_static("steer-probe");

/// Opens a TCP connection and closes it again.
pub(super) async fn connect(address: SocketAddr, limit: Duration) -> Result<Sample, ProbeFailure> {
    let begun = Instant::now();
    let stream = tcp(address, limit).await?;
    let rtt = begun.elapsed();
    close_in_order(stream);
    Ok(sample(rtt, None))
}

fn sample(rtt: Duration, handshake: Option<Duration>) -> Sample {
    Sample {
        rtt,
        handshake,
        report: OrcaLoadReport::default(),
        load: Load::default(),
    }
}

pub(super) async fn tcp(address: SocketAddr, limit: Duration) -> Result<TcpStream, ProbeFailure> {
    let connected = timeout(limit, TcpStream::connect(address)).await;
    connected
        .map_err(|_| ProbeFailure::Timeout)?
        .map_err(|e| broken(&e))
}

/// Converts an error of a TCP connection to a probe failure.
fn broken(error: &io::Error) -> ProbeFailure {
    match error.kind() {
        io::ErrorKind::TimedOut => ProbeFailure::Timeout,
        io::ErrorKind::ConnectionRefused => ProbeFailure::ConnectionRefused,
        io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::OutOfMemory => ProbeFailure::Local(error.to_string()),
        _ => ProbeFailure::Refused(error.to_string()),
    }
}

/// Target of a GET.
#[derive(Clone, Debug)]
pub(super) struct HttpRequest {
    pub(super) over: Transport,
    pub(super) address: SocketAddr,
    pub(super) path: String,
    pub(super) tls: HttpTls,
}

/// A GET prober with its current connection.
pub(super) struct HttpProber {
    get: HttpRequest,
    open: Option<Connection>,
}

enum Connection {
    Tcp(http1::SendRequest<Empty<Bytes>>),
    Quic {
        send: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
        connection: quinn::Connection,
    },
}

impl HttpProber {
    pub(super) fn new(get: HttpRequest) -> Self {
        Self { get, open: None }
    }

    /// Makes the next GET use a fresh connection.
    pub(super) fn renew(&mut self) {
        self.open = None;
    }

    /// Sends one GET on the current connection, or on a fresh one.
    pub(super) async fn probe(&mut self, limit: Duration) -> Result<Sample, ProbeFailure> {
        if let Some(held) = self.open.take().filter(|held| !held.is_closed()) {
            match self.exchange(held, limit, None).await {
                // A server may close a persistent connection at any time.
                Err(ProbeFailure::Refused(_) | ProbeFailure::Malformed(_)) => {}
                outcome => return outcome,
            }
        }
        let begun = Instant::now();
        let fresh = timeout(limit, self.connect()).await;
        let fresh = fresh.map_err(|_| ProbeFailure::Timeout)??;
        let left = limit.saturating_sub(begun.elapsed());
        self.exchange(fresh, left, Some(begun.elapsed())).await
    }

    async fn exchange(
        &mut self,
        mut connection: Connection,
        limit: Duration,
        handshake: Option<Duration>,
    ) -> Result<Sample, ProbeFailure> {
        let begun = Instant::now();
        let asked = timeout(limit, connection.get(&self.get)).await;
        let status = asked.map_err(|_| ProbeFailure::Timeout)??;
        let rtt = begun.elapsed();
        self.open = Some(connection);
        if status.is_success() || status.is_redirection() {
            return Ok(sample(rtt, handshake));
        }
        let status = status.as_u16();
        Err(ProbeFailure::Status { status })
    }

    async fn connect(&self) -> Result<Connection, ProbeFailure> {
        let HttpRequest {
            over, address, tls, ..
        } = &self.get;
        let host = tls.host(address.ip());
        let name = ServerName::try_from(host.clone());
        let name = name.map_err(|e| ProbeFailure::Local(format!("{host:?}: {e}")))?;
        match over {
            Transport::Http => open(connected(*address).await?).await,
            Transport::Https => {
                let stream = connected(*address).await?;
                let connector = TlsConnector::from(tls.https());
                let stream = connector.connect(name, stream).await;
                // Errors of rustls are wrapped in I/O errors.
                let stream = stream.map_err(|e| match e.get_ref() {
                    Some(inner) if inner.is::<rustls::Error>() => ProbeFailure::Tls(e.to_string()),
                    _ => broken(&e),
                });
                open(stream?).await
            }
            Transport::H3 => quic(*address, tls.h3()?, &host).await,
        }
    }
}

async fn connected(address: SocketAddr) -> Result<TcpStream, ProbeFailure> {
    TcpStream::connect(address).await.map_err(|e| broken(&e))
}

async fn open(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Connection, ProbeFailure> {
    let (send, driver) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| ProbeFailure::Refused(e.to_string()))?;
    // The task ends with its sender, and reports to it.
    tokio::spawn(async move { drop(driver.await) });
    Ok(Connection::Tcp(send))
}

async fn quic(
    address: SocketAddr,
    config: quinn::ClientConfig,
    host: &str,
) -> Result<Connection, ProbeFailure> {
    let local = |e: &dyn std::fmt::Display| ProbeFailure::Local(format!("QUIC to {address}: {e}"));
    // Errors from the network may be forged, so only the timeout counts.
    let (socket, _) = socket::connect(address).map_err(|e| broken(&e))?;
    let runtime = std::sync::Arc::new(TokioRuntime);
    let endpoint =
        Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, runtime)
            .map_err(|e| local(&e))?;
    let connecting = endpoint
        .connect_with(config, address, host)
        .map_err(|e| local(&e))?;
    let connection = connecting.await.map_err(classify)?;
    let quic = h3_quinn::Connection::new(connection.clone());
    let (mut driver, send) = h3::client::new(quic)
        .await
        .map_err(|e| ProbeFailure::Malformed(e.to_string()))?;
    tokio::spawn(async move {
        let closed = std::future::poll_fn(|cx| driver.poll_close(cx)).await;
        tracing::debug!(%address, %closed, "HTTP/3 probe connection");
    });
    Ok(Connection::Quic { send, connection })
}

impl Connection {
    fn is_closed(&self) -> bool {
        match self {
            Self::Tcp(send) => send.is_closed(),
            Self::Quic { connection, .. } => connection.close_reason().is_some(),
        }
    }

    async fn get(&mut self, get: &HttpRequest) -> Result<StatusCode, ProbeFailure> {
        let host = get.tls.host(get.address.ip());
        let host = match host.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]:{}", get.address.port()),
            Err(_) => format!("{host}:{}", get.address.port()),
        };
        // The path may contain a secret.
        let local = |e: &dyn std::fmt::Display| ProbeFailure::Local(format!("its path: {e}"));
        match self {
            Self::Tcp(send) => {
                let refused = |e: hyper::Error| ProbeFailure::Refused(e.to_string());
                let request = Request::get(&get.path)
                    .header(HOST, host)
                    .header(USER_AGENT, PROBE_AGENT)
                    .body(Empty::new())
                    .map_err(|e| local(&e))?;
                send.ready().await.map_err(refused)?;
                let response = send.send_request(request).await.map_err(|e| {
                    if e.is_parse() {
                        ProbeFailure::Malformed(e.to_string())
                    } else {
                        refused(e)
                    }
                })?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, MAX_RESPONSE_BYTES).collect().await;
                body.map_err(|e| ProbeFailure::Malformed(e.to_string()))?;
                Ok(head.status)
            }
            Self::Quic { send, .. } => {
                let request = Request::get(format!("https://{host}{}", get.path))
                    .header(USER_AGENT, PROBE_AGENT)
                    .body(())
                    .map_err(|e| local(&e))?;
                let refused = |e: h3::error::StreamError| ProbeFailure::Refused(e.to_string());
                let mut stream = send.send_request(request).await.map_err(refused)?;
                stream.finish().await.map_err(refused)?;
                let status = stream.recv_response().await.map_err(refused)?.status();
                let mut length = 0;
                while let Some(part) = stream.recv_data().await.map_err(refused)? {
                    length += part.remaining();
                    if length > MAX_RESPONSE_BYTES {
                        let what = format!("an answer of more than {MAX_RESPONSE_BYTES} bytes");
                        return Err(ProbeFailure::Malformed(what));
                    }
                }
                Ok(status)
            }
        }
    }
}
