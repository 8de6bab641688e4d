//! TLS of the probing side, which accepts only the expected beacon.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::{ALPN, ProbeFailure};
use crate::pki::{
    self, Credentials, FileStamps, Identity, IdentityKind, PkiError, Reloaded, verify, watch_files,
};

/// Certificate and trusted CA of a node, reloaded when the files change.
#[derive(Clone, Debug)]
pub struct ProbeTls {
    held: Arc<Reloaded<Certificates>>,
    anonymous: bool,
}

#[derive(Debug)]
struct Certificates {
    roots: Arc<RootCertStore>,
    credentials: Credentials,
}

impl Certificates {
    fn load(ca: &Path, cert: &Path, key: &Path) -> Result<Self, PkiError> {
        Ok(Self {
            roots: Arc::new(pki::load_roots(ca)?),
            credentials: pki::load_credentials(cert, key)?,
        })
    }
}

/// The verifier's error: more specific than the TLS alert that quinn reports.
#[derive(Clone, Debug, Default)]
pub(super) struct VerifierFailure(Arc<Mutex<Option<ProbeFailure>>>);

impl VerifierFailure {
    fn set(&self, failure: ProbeFailure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    pub(super) fn take_failure(&self) -> Option<ProbeFailure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ProbeTls {
    /// Reads the CA, the node's certificate and its key.
    pub fn load(ca: &Path, cert: &Path, key: &Path) -> Result<Self, PkiError> {
        let marks = FileStamps::read([ca, cert, key]);
        let held = Certificates::load(ca, cert, key)?;
        let [ca, cert, key] = [ca, cert, key].map(Path::to_owned);
        let again = move || {
            let held = Certificates::load(&ca, &cert, &key)?;
            verify(&held.credentials, &held.roots, IdentityKind::Node, &cert)?;
            Ok(held)
        };
        Ok(Self {
            held: Arc::new(Reloaded::new(held, marks, again)),
            anonymous: false,
        })
    }

    /// Reloads certificates when their files change, and on SIGHUP, forever. Open connections
    /// continue.
    pub async fn watch_files(&self) {
        watch_files("probes", || self.held.refresh()).await;
    }

    /// Checks whether the files have changed; returns true if the new ones are used from now on.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be used. The previous ones stay in use.
    pub fn refresh(&self) -> Result<bool, PkiError> {
        self.held.refresh()
    }

    /// Removes the certificate; every beacon refuses such a client.
    #[cfg(test)]
    pub(crate) fn anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// Returns the QUIC settings of a connection to `expected`.
    pub(super) fn client(
        &self,
        expected: Identity,
        verdict: &VerifierFailure,
        idle: Duration,
    ) -> Result<quinn::ClientConfig, ProbeFailure> {
        let local = |e: &dyn std::fmt::Display| {
            ProbeFailure::Local(format!(
                "TLS cannot be set up: {e}; check this node's certificate"
            ))
        };
        let provider = Arc::new(ring::default_provider());
        let held = self.held.current();
        let roots = Arc::clone(&held.roots);
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|e| local(&e))?;
        let verifier = BeaconVerifier {
            inner,
            expected,
            verdict: verdict.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| local(&e))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let Credentials { chain, key } = held.credentials.clone();
        let mut tls = if self.anonymous {
            builder.with_no_client_auth()
        } else {
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| local(&e))?
        };
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would check no certificate, and the measurement is of full handshakes.
        tls.resumption = Resumption::disabled();
        let crypto = QuicClientConfig::try_from(tls).map_err(|e| local(&e))?;
        let mut transport = quinn::TransportConfig::default();
        transport
            .initial_rtt(Duration::from_millis(100))
            // Needed if the interval exceeds the idle timeout of a beacon.
            .keep_alive_interval(Some(Duration::from_secs(10)))
            .max_idle_timeout(Some(idle.try_into().map_err(|e| local(&e))?))
            .max_concurrent_bidi_streams(0_u8.into())
            .max_concurrent_uni_streams(0_u8.into());
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        Ok(config)
    }
}

#[derive(Debug)]
struct BeaconVerifier {
    inner: Arc<WebPkiServerVerifier>,
    expected: Identity,
    verdict: VerifierFailure,
}

impl ServerCertVerifier for BeaconVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chained = self
            .inner
            .verify_server_cert(end_entity, intermediates, name, ocsp, now);
        if let Err(e) = chained {
            let wrong_name = matches!(
                e,
                Error::InvalidCertificate(
                    CertificateError::NotValidForName
                        | CertificateError::NotValidForNameContext { .. }
                )
            );
            self.verdict.set(if wrong_name {
                ProbeFailure::Identity(format!("{} expected: {e}", self.expected))
            } else {
                ProbeFailure::Tls(e.to_string())
            });
            return Err(e);
        }
        let wrong = match Identity::from_certificate(end_entity) {
            Ok(found) if found == self.expected => return Ok(ServerCertVerified::assertion()),
            Ok(found) => format!("expected {}, found {found}", self.expected),
            Err(e) => format!("{} expected: {e}", self.expected),
        };
        self.verdict.set(ProbeFailure::Identity(wrong));
        Err(Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
