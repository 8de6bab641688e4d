//! TLS of plain HTTP probes: checked against a CA and a name if configured. Otherwise any
//! certificate is accepted, because the question is only whether the server works.

use std::{path::Path, sync::Arc};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::ProbeFailure;
use crate::pki::{self, PkiError};

/// Certificates accepted by plain HTTP probes.
#[derive(Clone, Debug)]
pub struct HttpTls {
    https: Arc<ClientConfig>,
    h3: Arc<ClientConfig>,
    /// Name that certificates are checked for, and sent in requests.
    name: Option<String>,
}

impl HttpTls {
    /// Creates the settings: with a CA file, certificates are checked. `name` is sent and checked;
    /// without it, the backend's address.
    ///
    /// # Errors
    ///
    /// Returns an error if the CA cannot be read.
    pub fn new(ca: Option<&Path>, name: Option<String>) -> Result<Self, PkiError> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match ca {
            Some(file) => {
                let roots = Arc::new(pki::load_roots(file)?);
                let built = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
                match built.build() {
                    Ok(verifier) => verifier,
                    // There is at least one root, or loading had failed.
                    Err(_) => Arc::new(AcceptAnyCertificate(provider.clone())),
                }
            }
            None => Arc::new(AcceptAnyCertificate(provider.clone())),
        };
        let config = |alpn: &[u8], versions| -> Option<Arc<ClientConfig>> {
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .ok()?
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            Some(Arc::new(config))
        };
        let (https, h3) = (
            config(b"http/1.1", rustls::DEFAULT_VERSIONS),
            config(b"h3", &[&rustls::version::TLS13]),
        );
        let (Some(https), Some(h3)) = (https, h3) else {
            unreachable!("ring has all versions of TLS");
        };
        Ok(Self { https, h3, name })
    }

    pub(super) fn https(&self) -> Arc<ClientConfig> {
        self.https.clone()
    }

    pub(super) fn h3(&self) -> Result<quinn::ClientConfig, ProbeFailure> {
        let crypto = QuicClientConfig::try_from(self.h3.clone())
            .map_err(|e| ProbeFailure::Local(format!("TLS cannot be set up: {e}")))?;
        Ok(quinn::ClientConfig::new(Arc::new(crypto)))
    }

    /// Returns the host to send in requests.
    pub(super) fn host(&self, address: std::net::IpAddr) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => address.to_string(),
        }
    }
}

/// A verifier that accepts any certificate whose key the peer holds.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
