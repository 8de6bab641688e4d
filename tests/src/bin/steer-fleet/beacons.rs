//! Beacons of many backends behind one socket: the certificate depends on the requested name.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::Sender,
    },
};

use anyhow::{Context, Result};
use quinn::{
    Connection, Endpoint, EndpointConfig, TokioRuntime,
    crypto::rustls::{HandshakeData, QuicServerConfig},
};
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use steer_probe::{
    pki::{load_credentials, load_roots},
    probe::{ALPN, BACKEND_UP, OrcaLoadReport, wire},
};

/// Port of all beacons.
pub(crate) const PORT: u16 = 7100;

/// Backends that report to be down.
pub(crate) type Down = Arc<HashMap<String, AtomicBool>>;

#[derive(Debug)]
struct Certificates(HashMap<String, Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(hello.server_name()?).cloned()
    }
}

/// Answers for all backends with certificates in a folder, forever. Reports its address.
pub(crate) async fn serve(folder: &Path, down: Down, ready: Sender<SocketAddr>) -> Result<()> {
    let provider = Arc::new(ring::default_provider());
    let mut certificates = HashMap::new();
    for name in down.keys() {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        let held = load_credentials(&file("pem"), &file("key"))?;
        let key = provider.key_provider.load_private_key(held.key)?;
        certificates.insert(name.clone(), Arc::new(CertifiedKey::new(held.chain, key)));
    }
    let roots = Arc::new(load_roots(&folder.join("ca.pem"))?);
    let nodes =
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(nodes)
        .with_cert_resolver(Arc::new(Certificates(certificates)));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(tls)?;
    let server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    enlarge(&socket).context("the buffer of the beacons' socket")?;
    let config = EndpointConfig::default();
    let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?;
    ready.send(endpoint.local_addr()?)?;
    while let Some(incoming) = endpoint.accept().await {
        let down = down.clone();
        tokio::spawn(async move {
            // A node that disconnects ends it.
            if let Ok(connection) = incoming.await {
                drop(answer(&connection, &down).await);
            }
        });
    }
    Ok(())
}

/// Enlarges the buffers: here one socket receives the pings for thousands of beacons; in a fleet
/// each has a socket, and a machine, of its own.
fn enlarge(socket: &UdpSocket) -> io::Result<()> {
    let bytes: libc::c_int = 64 << 20;
    // SAFETY: an open socket, and an integer of the length that is said.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

async fn answer(connection: &Connection, down: &Down) -> Result<()> {
    let said = connection.handshake_data().context("no handshake")?;
    let said = said.downcast::<HandshakeData>().ok();
    let name = said.and_then(|said| said.server_name).context("no name")?;
    let is_down = down.get(&name).context("no such backend")?;
    loop {
        let ping = connection.read_datagram().await?;
        let sequence = wire::decode_ping(&ping)?;
        let mut report = OrcaLoadReport::default();
        let up = f64::from(u8::from(!is_down.load(Relaxed)));
        report.named_metrics.insert(BACKEND_UP.to_owned(), up);
        let limit = connection.max_datagram_size().unwrap_or(0);
        connection.send_datagram(wire::encode_reply(sequence, &report, limit)?)?;
    }
}
