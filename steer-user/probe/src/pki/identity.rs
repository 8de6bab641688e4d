//! Identities in certificates.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::{CertificateDer, DnsName};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Role of an [`Identity`]: a node probes, a beacon answers, an operator uses an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// A load balancer node; the client of a probe.
    Node,
    /// The responder beside one backend; the server of a probe.
    Beacon,
    /// A user of a node's API over TCP; the client.
    Operator,
    /// The API of a node; the server.
    Api,
}

impl IdentityKind {
    /// Returns whether it is a server.
    pub(crate) const fn serves(self) -> bool {
        matches!(self, Self::Beacon | Self::Api)
    }

    /// Returns the word in the URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Beacon => "beacon",
            Self::Operator => "operator",
            Self::Api => "api",
        }
    }
}

/// An identity, written as `steer://<kind>/<region>/<name>` in a certificate's SAN.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    kind: IdentityKind,
    region: String,
    name: String,
}

/// Reason why an identity is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The name is not usable as host name and file name.
    #[error(
        "name \"{}\" is not a host name: use letters, digits, '-', '_' and '.' (63 at most)",
        .0.escape_debug()
    )]
    Name(String),
    /// The region has characters that a URI path segment does not allow.
    #[error(
        "region \"{}\" is not valid: use letters, digits, '-', '_' and '.' (63 at most)",
        .0.escape_debug()
    )]
    Region(String),
    /// Not of the form `steer://<kind>/<region>/<name>`.
    #[error(
        "\"{}\" is not an identity: write steer://node|beacon|operator|api/<region>/<name>",
        .0.escape_debug()
    )]
    Uri(String),
    /// The certificate cannot be parsed.
    #[error("certificate cannot be parsed: {0}; issue a new one")]
    Certificate(String),
    /// The certificate has no identity, or more than one.
    #[error("certificate has {0} steer:// URIs in its SAN, not one; issue it with `steer pki`")]
    Count(usize),
}

fn segment(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

impl Identity {
    /// Creates an identity, if name and region are valid in a URI, a host name and a file name.
    pub fn new(kind: IdentityKind, region: &str, name: &str) -> Result<Self, IdentityError> {
        if !segment(name) || name == "ca" || DnsName::try_from(name).is_err() {
            return Err(IdentityError::Name(name.to_owned()));
        }
        if !segment(region) {
            return Err(IdentityError::Region(region.to_owned()));
        }
        Ok(Self {
            kind,
            region: region.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Returns the identity in `certificate`, without checking the signature.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let bad = |e: &dyn fmt::Display| IdentityError::Certificate(e.to_string());
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| bad(&e))?;
        let san = parsed.subject_alternative_name().map_err(|e| bad(&e))?;
        let uris: Vec<&str> = san
            .iter()
            .flat_map(|san| &san.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) if uri.starts_with("steer:") => Some(*uri),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [uri] => uri.parse(),
            _ => Err(IdentityError::Count(uris.len())),
        }
    }

    /// Returns the kind.
    pub fn kind(&self) -> IdentityKind {
        self.kind
    }

    /// Returns the region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Returns the name: of the node, or of the beacon's backend.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "steer://{}/{}/{}",
            self.kind.as_str(),
            self.region,
            self.name
        )
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::Uri(uri.to_owned());
        let path = uri.strip_prefix("steer://").ok_or_else(bad)?;
        let parts: Vec<&str> = path.split('/').collect();
        let [kind, region, name] = parts.as_slice() else {
            return Err(bad());
        };
        let kind = match *kind {
            "node" => IdentityKind::Node,
            "beacon" => IdentityKind::Beacon,
            "operator" => IdentityKind::Operator,
            "api" => IdentityKind::Api,
            _ => return Err(bad()),
        };
        Self::new(kind, region, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let id = Identity::new(IdentityKind::Beacon, "eu-west", "gpu-1").unwrap();
        assert_eq!(id.to_string(), "steer://beacon/eu-west/gpu-1");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn refuses_what_would_leave_the_directory_or_the_uri() {
        for name in ["", "..", "../x", "a/b", "ca", "10.0.0.1", ".hidden", "a b"] {
            assert!(
                Identity::new(IdentityKind::Node, "eu", name).is_err(),
                "{name:?}"
            );
        }
        assert!(Identity::new(IdentityKind::Node, "e/u", "a").is_err());
        assert!("steer://admin/eu/a".parse::<Identity>().is_err());
        assert!("steer://node/eu/a/b".parse::<Identity>().is_err());
    }
}
