//! Client of the API over TCP.

use std::{error::Error, fmt, path::Path, sync::Arc};

use hyper::Uri;
use rustls::{ClientConfig, crypto::ring, pki_types::ServerName};
use steer_probe::pki::{load_credentials, load_roots};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::ClientError;

/// Default port.
const PORT: u16 = 9443;

/// Address of a daemon, and the certificates to use.
#[derive(Clone, Copy, Debug)]
pub struct Dial<'p> {
    /// `https://` with a name or address, and a port.
    pub url: &'p str,
    /// File of the CA of the daemon's certificate.
    pub ca: &'p Path,
    /// File of our certificate.
    pub cert: &'p Path,
    /// File of its key.
    pub key: &'p Path,
}

/// A daemon reached over TCP.
#[derive(Clone)]
pub struct Remote {
    url: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Dial<'_> {
    /// Reads the certificates.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is invalid, or the files cannot be used.
    pub fn remote(&self) -> Result<Remote, ClientError> {
        let bad = |error: &dyn fmt::Display| ClientError::Untrusted {
            url: self.url.to_owned(),
            reason: error.to_string(),
        };
        let wrong = || ClientError::Untrusted {
            url: self.url.to_owned(),
            reason: "not an address; write it like https://edge.example:9443".to_owned(),
        };
        let uri: Uri = self.url.parse().map_err(|_| wrong())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
        let host = host.ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|e| bad(&e))?;
        let roots = load_roots(self.ca).map_err(|e| bad(&e))?;
        let held = load_credentials(self.cert, self.key).map_err(|e| bad(&e))?;
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| bad(&e))?
            .with_root_certificates(roots)
            .with_client_auth_cert(held.chain, held.key)
            .map_err(|e| bad(&e))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Remote {
            url: self.url.to_owned(),
            host,
            port: uri.port_u16().unwrap_or(PORT),
            name,
            tls: Arc::new(tls),
        })
    }
}

impl Remote {
    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let stream = TcpStream::connect((&*self.host, self.port)).await;
        let stream = stream.map_err(|source| ClientError::Unreachable {
            path: self.url.clone().into(),
            source,
        })?;
        TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| self.untrusted(&error))
    }

    /// Converts a connection error to a message with its causes.
    pub(super) fn untrusted(&self, error: &dyn Error) -> ClientError {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            reason = format!("{reason}: {error}");
            cause = error.source();
        }
        ClientError::Untrusted {
            url: self.url.clone(),
            reason,
        }
    }
}
