//! TLS of the beacon, which accepts only nodes.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use super::{BeaconConfig, BeaconError};
use crate::pki::{self, Identity, IdentityKind, PkiError, load_credentials, load_roots};
use crate::probe::ALPN;

/// Idle timeout, for nodes that vanish silently.
const IDLE: Duration = Duration::from_secs(30);

/// Refuses certificates that no node would accept.
pub(super) fn verify(config: &BeaconConfig) -> Result<(), PkiError> {
    let held = load_credentials(&config.cert, &config.key)?;
    let roots = Arc::new(load_roots(&config.ca)?);
    pki::verify(&held, &roots, IdentityKind::Beacon, &config.cert)
}

pub(crate) fn server(config: &BeaconConfig) -> Result<quinn::ServerConfig, BeaconError> {
    let bad = |e: &dyn std::fmt::Display| BeaconError::Tls(e.to_string());
    let held = load_credentials(&config.cert, &config.key)?;
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(load_roots(&config.ca)?);
    let inner = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|e| bad(&e))?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| bad(&e))?
        .with_client_cert_verifier(Arc::new(NodeVerifier { inner }))
        .with_single_cert(held.chain, held.key)
        .map_err(|e| bad(&e))?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // Every handshake is a full one, so that every one checks the certificates.
    tls.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(tls).map_err(|e| bad(&e))?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(Some(IDLE.try_into().map_err(|e| bad(&e))?))
        .max_concurrent_bidi_streams(0_u8.into())
        .max_concurrent_uni_streams(0_u8.into());
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(transport));
    // A reply, which is longer than a ping, only goes to an address that completed a handshake.
    server.migration(false);
    Ok(server)
}

#[derive(Debug)]
struct NodeVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now)?;
        match Identity::from_certificate(end_entity) {
            Ok(identity) if identity.kind() == IdentityKind::Node => Ok(verified),
            _ => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
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
