//! Probes of servers other than beacons, over loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const HOUR: Duration = Duration::from_secs(3600);

/// A server with a settable status that counts its connections.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
    pem: String,
    task: JoinHandle<()>,
}

fn tls(alpn: &[u8]) -> (Arc<ServerConfig>, String) {
    let names = vec!["chat.test".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    (Arc::new(config), cert.pem())
}

async fn server(over: Transport) -> Server {
    let status = Arc::new(AtomicU16::new(200));
    let connections = Arc::new(AtomicUsize::new(0));
    let (config, pem) = tls(if over == Transport::H3 {
        b"h3"
    } else {
        b"http/1.1"
    });
    let (says, counts) = (status.clone(), connections.clone());
    let (address, task) = if over == Transport::H3 {
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = quinn::Endpoint::server(config, LOOPBACK).unwrap();
        let address = endpoint.local_addr().unwrap();
        (address, tokio::spawn(h3_serve(endpoint, says, counts)))
    } else {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = (over == Transport::Https).then(|| TlsAcceptor::from(config));
        (address, tokio::spawn(h1_serve(listener, tls, says, counts)))
    };
    Server {
        address,
        status,
        connections,
        pem,
        task,
    }
}

async fn h1_serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    status: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
) {
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.fetch_add(1, Ordering::Relaxed);
        let (status, tls) = (status.clone(), tls.clone());
        let answer = move |request: Request<Incoming>| {
            let status = match request.uri().path() {
                "/health" => status.load(Ordering::Relaxed),
                _ => 404,
            };
            let body = Full::new(Bytes::from_static(b"ok"));
            async move { Response::builder().status(status).body(body) }
        };
        tasks.spawn(async move {
            let service = service_fn(answer);
            let builder = http1::Builder::new();
            match tls {
                None => drop(
                    builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                ),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(
                            builder
                                .serve_connection(TokioIo::new(stream), service)
                                .await,
                        );
                    }
                }
            }
        });
    }
}

async fn h3_serve(
    endpoint: quinn::Endpoint,
    status: Arc<AtomicU16>,
    connections: Arc<AtomicUsize>,
) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        let status = status.clone();
        tasks.spawn(async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            let connection = h3_quinn::Connection::new(connection);
            let mut server = h3::server::Connection::<_, Bytes>::new(connection)
                .await
                .unwrap();
            while let Ok(Some(resolver)) = server.accept().await {
                let (request, mut stream) = resolver.resolve_request().await.unwrap();
                let status = match request.uri().path() {
                    "/health" => status.load(Ordering::Relaxed),
                    _ => 404,
                };
                let head = Response::builder().status(status).body(()).unwrap();
                stream.send_response(head).await.unwrap();
                stream.send_data(Bytes::from_static(b"ok")).await.unwrap();
                stream.finish().await.unwrap();
            }
        });
    }
}

fn settings(web: HttpTls) -> ProbeSettings {
    ProbeSettings {
        node: "n1".to_owned(),
        budget: Budget::new(1, Duration::from_millis(20), HOUR, 1e6),
        fast_probes: 2,
        timeout: Duration::from_secs(5),
        jitter: 0.2,
        tls: None,
        web,
    }
}

fn probe(address: SocketAddr, method: &str, web: HttpTls) -> ResultReceiver {
    let (outbox, rx) = channel(1);
    let method = method.replace('?', &address.port().to_string());
    let target = ProbeTarget {
        name: "b1".to_owned(),
        region: "eu".to_owned(),
        address,
        method: method.parse().unwrap(),
    };
    spawn(vec![target], 1, &settings(web), &outbox);
    rx
}

fn anyone() -> HttpTls {
    HttpTls::new(None, None).unwrap()
}

fn checked(ca: &Path, name: Option<&str>) -> HttpTls {
    HttpTls::new(Some(ca), name.map(str::to_owned)).unwrap()
}

async fn next(rx: &mut ResultReceiver) -> Result<Sample, ProbeFailure> {
    let measured = tokio::time::timeout(Duration::from_secs(20), rx.next()).await;
    measured.unwrap().unwrap().outcome
}

async fn until(rx: &mut ResultReceiver, wanted: impl Fn(&Result<Sample, ProbeFailure>) -> bool) {
    while !wanted(&next(rx).await) {}
}

#[tokio::test]
async fn what_serves_is_asked_on_one_connection_and_its_status_counts() {
    for over in [Transport::Http, Transport::Https, Transport::H3] {
        let server = server(over).await;
        let method = match over {
            Transport::Http => "http:?/health",
            Transport::Https => "https:?/health",
            Transport::H3 => "h3:?/health",
        };
        let mut rx = probe(server.address, method, anyone());
        let first = next(&mut rx).await.unwrap();
        assert!(first.handshake.is_some(), "{over:?}");
        assert!(!first.load.has_signal());
        for _ in 0..3 {
            assert_eq!(next(&mut rx).await.unwrap().handshake, None, "{over:?}");
        }
        server.status.store(503, Ordering::Relaxed);
        let status = Err(ProbeFailure::Status { status: 503 });
        until(&mut rx, |o| *o == status).await;
        server.status.store(204, Ordering::Relaxed);
        until(&mut rx, Result::is_ok).await;
        assert_eq!(server.connections.load(Ordering::Relaxed), 1, "{over:?}");

        server.task.abort();
        until(&mut rx, |o| {
            matches!(
                o,
                Err(ProbeFailure::Refused(_)
                    | ProbeFailure::ConnectionRefused
                    | ProbeFailure::Timeout)
            )
        })
        .await;
    }
}

#[tokio::test]
async fn another_path_is_not_there() {
    let server = server(Transport::Http).await;
    let outcome = next(&mut probe(server.address, "http:?/other", anyone())).await;
    assert_eq!(outcome, Err(ProbeFailure::Status { status: 404 }));
}

#[tokio::test]
async fn certificates_are_checked_where_there_is_a_ca() {
    for over in [Transport::Https, Transport::H3] {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (server(over).await, server(over).await);
        let file = |name: &str, pem: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        let (own_ca, other_ca) = (file("own", &own.pem), file("other", &other.pem));
        let method = if over == Transport::H3 {
            "h3:?/health"
        } else {
            "https:?/health"
        };
        let mut rx = probe(own.address, method, checked(&own_ca, Some("chat.test")));
        next(&mut rx).await.unwrap();
        for web in [
            checked(&other_ca, Some("chat.test")),
            checked(&own_ca, Some("other.test")),
            checked(&own_ca, None),
        ] {
            let failure = next(&mut probe(own.address, method, web))
                .await
                .unwrap_err();
            assert!(
                matches!(failure, ProbeFailure::Tls(_)),
                "{over:?}: {failure}"
            );
        }
    }
}

#[tokio::test]
async fn tcp_is_whether_it_connects() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut rx = probe(address, "tcp:?", anyone());
    next(&mut rx).await.unwrap();
    drop(listener);
    until(&mut rx, |o| {
        matches!(o, Err(ProbeFailure::ConnectionRefused))
    })
    .await;
}

#[tokio::test]
async fn one_that_takes_connections_and_says_nothing_times_out() {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (outbox, mut rx) = channel(1);
    let target = |method: &str| ProbeTarget {
        name: "b1".to_owned(),
        region: "eu".to_owned(),
        address,
        method: method
            .replace('?', &address.port().to_string())
            .parse()
            .unwrap(),
    };
    let short = ProbeSettings {
        timeout: Duration::from_millis(100),
        ..settings(anyone())
    };
    let both = vec![target("http:?/health"), target("tcp:?")];
    let tasks = spawn(both.clone(), 2, &short, &outbox);
    assert_eq!(next(&mut rx).await, Err(ProbeFailure::Timeout), "of both");
    tasks.iter().for_each(JoinHandle::abort);
    let (outbox, mut rx) = channel(1);
    spawn(both, 1, &short, &outbox);
    for _ in 0..5 {
        next(&mut rx).await.unwrap();
    }
}
