//! PEM files: never overwritten, with keys readable only by their owner.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::PkiError;
use crate::regular_file;

/// Longest file that is read; bundles of all public authorities have a quarter of a MiB.
const MAX_PEM: u64 = 4 << 20;

/// A certificate chain and its private key.
#[derive(Debug)]
pub struct Credentials {
    /// Certificates, the end-entity certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Reads a certificate chain and its key.
pub fn load_credentials(cert: &Path, key: &Path) -> Result<Credentials, PkiError> {
    let chain = certificates(cert)?;
    let pem = read(key)?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| PkiError::Pem {
        path: key.to_owned(),
        reason: if pem.contains("BEGIN CERTIFICATE-----") {
            "it is a certificate, and not a private key".to_owned()
        } else if pem.contains("BEGIN ENCRYPTED PRIVATE KEY-----") {
            "it is encrypted, and nobody is there to enter a password".to_owned()
        } else if matches!(error, pem::Error::NoItemsFound) {
            "no private key in it".to_owned()
        } else {
            error.to_string()
        },
    })?;
    Ok(Credentials { chain, key })
}

/// Reads the CA certificates to trust.
pub fn load_roots(ca: &Path) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|e| PkiError::Pem {
            path: ca.to_owned(),
            reason: e.to_string(),
        })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let bad = |reason: String| PkiError::Pem {
        path: path.to_owned(),
        reason,
    };
    let pem = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| bad(e.to_string()))?;
    if found.is_empty() {
        let reason = match pem.contains("PRIVATE KEY-----") {
            true => "it is a private key, not a certificate",
            false => "no certificate in it",
        };
        return Err(bad(reason.to_owned()));
    }
    Ok(found)
}

/// Reads a PEM file of at most some MiB.
///
/// # Errors
///
/// Returns an error if it is not a regular file, too long or not text.
pub fn read(path: &Path) -> Result<String, PkiError> {
    let bytes = regular_file::read(path, MAX_PEM).map_err(|cause| PkiError::Io {
        path: path.to_owned(),
        cause,
    })?;
    String::from_utf8(bytes).map_err(|_| PkiError::Pem {
        path: path.to_owned(),
        reason: "it is not text".to_owned(),
    })
}

/// Writes `<name>.key` and `<name>.pem`: both, or neither if one of them exists.
pub(super) fn write_pair(dir: &Path, name: &str, cert: &str, key: &str) -> Result<(), PkiError> {
    let key_path = dir.join(format!("{name}.key"));
    create(&key_path, key, 0o600)?;
    create(&dir.join(format!("{name}.pem")), cert, 0o644).inspect_err(|_| {
        // A key without its certificate would only block the next attempt.
        let _ = fs::remove_file(&key_path);
    })
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let io = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::Io {
            path: path.to_owned(),
            cause,
        },
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io)
        .inspect_err(|_| {
            let _ = fs::remove_file(path);
        })
}
