//! The API over TCP with mutual TLS: the client's certificate determines the role.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use steer_core::config::Remote;
use steer_probe::pki::{
    FileStamps, Identity, IdentityKind, PkiError, Reloaded, load_credentials, load_roots, verify,
    watch_files,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{error, info, warn};

use super::{
    Access, Monitor,
    access::Peer,
    listen::{self, Listen},
    quota::Holder,
    server,
};

/// Pause after a failure to listen on an address.
const RETRY: Duration = Duration::from_secs(5);

/// Serves on the configured address, if there is one, and follows changes of the configuration.
pub async fn remote(
    access: Arc<Access>,
    monitor: Monitor,
    mut remote: watch::Receiver<Option<Remote>>,
) {
    loop {
        let now = remote.borrow_and_update().clone();
        let serve = async {
            match &now {
                Some(remote) => at(remote, &access, monitor.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = serve => {}
            changed = remote.wait_for(|next| *next != now) => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

async fn at(remote: &Remote, access: &Access, monitor: Monitor) {
    let address = remote.address;
    let tls = match tls(remote) {
        Ok(tls) => Arc::new(tls),
        Err(error) => {
            error!(%address, %error, "the certificates of the API cannot be used; trying again");
            return sleep(RETRY).await;
        }
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(
                %address, %error,
                "cannot listen on the address of the API; trying again: check `listen` in [api]"
            );
            return sleep(RETRY).await;
        }
    };
    info!(%address, "API");
    let listener = Guarded {
        listener,
        tls: Arc::clone(&tls),
    };
    tokio::select! {
        never = listen::serve(listener, server::routes(access, monitor)) => match never {},
        () = watch_files("API", || tls.refresh()) => {}
    }
}

/// Returns the server's settings, rebuilt when its files change.
fn tls(remote: &Remote) -> Result<Reloaded<ServerConfig>, PkiError> {
    let marks = FileStamps::read([&*remote.cert, &*remote.key, &*remote.ca]);
    let remote = remote.clone();
    Ok(Reloaded::new(settings(&remote)?, marks, move || {
        settings(&remote)
    }))
}

fn settings(remote: &Remote) -> Result<ServerConfig, PkiError> {
    let held = load_credentials(&remote.cert, &remote.key)?;
    let roots = Arc::new(load_roots(&remote.ca)?);
    verify(&held, &roots, IdentityKind::Api, &remote.cert)?;
    let unfit = |error: &dyn std::fmt::Display| PkiError::Unfit {
        path: remote.cert.clone(),
        reason: error.to_string(),
    };
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|e| unfit(&e))?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| unfit(&e))?
        .with_client_cert_verifier(clients)
        .with_single_cert(held.chain, held.key)
        .map_err(|e| unfit(&e))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not check a certificate that has expired since.
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// A listener whose connections begin with a TLS handshake.
struct Guarded {
    listener: TcpListener,
    tls: Arc<Reloaded<ServerConfig>>,
}

impl Listen for Guarded {
    type Raw = (TcpStream, SocketAddr, Arc<ServerConfig>);
    type Stream = TlsStream<TcpStream>;
    type Peer = Peer;

    async fn accept(&self) -> io::Result<Self::Raw> {
        let (stream, from) = self.listener.accept().await?;
        Ok((stream, from, self.tls.current()))
    }

    fn holder(&self, (_, from, _): &Self::Raw) -> Holder {
        listen::address(*from)
    }

    async fn handshake((stream, from, tls): Self::Raw) -> io::Result<(Self::Stream, Peer)> {
        let stream = TlsAcceptor::from(tls).accept(stream).await?;
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates().and_then(|all| all.first());
        let identity = shown.and_then(|shown| Identity::from_certificate(shown).ok());
        // Nodes and beacons have certificates of the same CA, but no access here.
        let operator = identity.filter(|identity| identity.kind() == IdentityKind::Operator);
        let peer = Peer::remote(from, operator.map(|identity| identity.name().to_owned()));
        Ok((stream, peer))
    }
}
