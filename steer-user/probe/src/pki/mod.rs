//! A small private CA for mutual TLS between nodes and beacons, and for the API over TCP.

mod files;
mod fresh;
mod identity;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

pub use self::files::{Credentials, load_credentials, load_roots, read as read_pem};
pub use self::fresh::{FileStamps, Reloaded, keys_match, verify, verify_at, watch_files};
pub use self::identity::{Identity, IdentityError, IdentityKind};

/// Lifetime of a CA.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Time by which certificates are backdated, for clocks that are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Error of creating or reading certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file exists already.
    #[error("{} exists and is not overwritten: move it away or choose another directory", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {cause}; check that the path exists and its permissions", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        cause: std::io::Error,
    },
    /// A file has invalid content.
    #[error("{}: not usable as PEM: {reason}; create a new one", path.display())]
    Pem {
        /// Path of the file.
        path: PathBuf,
        /// Description of the error.
        reason: String,
    },
    /// No peer would accept the certificate.
    #[error("{}: not usable: {reason}; issue a new one", path.display())]
    Unfit {
        /// Path of the file.
        path: PathBuf,
        /// Description of the error.
        reason: String,
    },
    /// The certificate cannot be created.
    #[error("certificate for {subject} cannot be created: {cause}")]
    Make {
        /// Subject of the certificate.
        subject: String,
        /// Error of rcgen.
        cause: rcgen::Error,
    },
}

/// Validity period of a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// Start.
    pub not_before: OffsetDateTime,
    /// End.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// Returns the period from now, minus a few minutes for clocks that are behind, for `life`.
    pub fn for_next(life: Duration) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            not_before: now - CLOCK_SKEW,
            not_after: now + life,
        }
    }
}

/// Creates a CA in `dir`: `ca.pem` and `ca.key`. Refuses to overwrite one.
pub fn init(dir: &Path) -> Result<(), PkiError> {
    std::fs::create_dir_all(dir).map_err(|cause| PkiError::Io {
        path: dir.to_owned(),
        cause,
    })?;
    let make = |cause| PkiError::Make {
        subject: "the CA".to_owned(),
        cause,
    };
    let mut params = params("steer CA", Validity::for_next(CA_LIFE));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(make)?;
    let certificate = params.self_signed(&key).map_err(make)?;
    files::write_pair(dir, "ca", &certificate.pem(), &key.serialize_pem())
}

/// Issues a certificate from the CA in `dir`: `<name>.pem` and `<name>.key` beside it.
///
/// Certificates of nodes and operators are for clients only, those of beacons and APIs for servers
/// only. Besides its own name, a server is reachable by `hosts`, names or addresses.
pub fn issue(
    dir: &Path,
    identity: &Identity,
    validity: Validity,
    hosts: &[String],
) -> Result<(), PkiError> {
    let make = |cause| PkiError::Make {
        subject: identity.to_string(),
        cause,
    };
    let ca_key = KeyPair::from_pem(&files::read(&dir.join("ca.key"))?).map_err(make)?;
    let ca = Issuer::from_ca_cert_pem(&files::read(&dir.join("ca.pem"))?, ca_key).map_err(make)?;

    let mut params = params(identity.name(), validity);
    params.subject_alt_names = vec![
        SanType::URI(identity.to_string().try_into().map_err(make)?),
        SanType::DnsName(identity.name().try_into().map_err(make)?),
    ];
    for host in hosts {
        let name = match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.as_str().try_into().map_err(make)?),
        };
        params.subject_alt_names.push(name);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![if identity.kind().serves() {
        ExtendedKeyUsagePurpose::ServerAuth
    } else {
        ExtendedKeyUsagePurpose::ClientAuth
    }];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(make)?;
    let certificate = params.signed_by(&key, &ca).map_err(make)?;
    files::write_pair(
        dir,
        identity.name(),
        &certificate.pem(),
        &key.serialize_pem(),
    )
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_cause_of_an_error_is_printed_once() {
        let error = load_roots(Path::new("/nothing/ca.pem")).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
        assert!(std::error::Error::source(&error).is_none(), "{error}");
    }

    #[test]
    fn makes_what_it_says_and_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path()).unwrap();
        let id = Identity::new(IdentityKind::Beacon, "eu", "gpu-1").unwrap();
        let day = Validity::for_next(Duration::from_secs(86_400));
        issue(dir.path(), &id, day, &[]).unwrap();

        let held =
            load_credentials(&dir.path().join("gpu-1.pem"), &dir.path().join("gpu-1.key")).unwrap();
        assert_eq!(Identity::from_certificate(&held.chain[0]).unwrap(), id);
        for key in ["ca.key", "gpu-1.key"] {
            let mode = dir
                .path()
                .join(key)
                .metadata()
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }

        let before = std::fs::read(dir.path().join("ca.key")).unwrap();
        assert!(matches!(init(dir.path()), Err(PkiError::Exists(_))));
        assert!(matches!(
            issue(dir.path(), &id, day, &[]),
            Err(PkiError::Exists(_))
        ));
        assert_eq!(std::fs::read(dir.path().join("ca.key")).unwrap(), before);
    }
}
