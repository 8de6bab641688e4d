//! The section `[api]`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use steer_probe::pki::{Identity, IdentityKind};

use super::{raw, report::Report};

/// Users of the API besides root, and addresses of the API and of metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// Principals that may read.
    pub read: Vec<Principal>,
    /// Principals that may also drain backends, confirm and roll back.
    pub operate: Vec<Principal>,
    /// Principals that may also apply configurations.
    pub admin: Vec<Principal>,
    /// TCP address of metrics, open to everyone.
    pub metrics: Option<SocketAddr>,
    /// Host names accepted in requests for metrics, besides addresses and localhost.
    pub metrics_hosts: Vec<String>,
    /// API over TCP.
    pub remote: Option<Remote>,
}

/// API over TCP: its address and certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Address to listen on.
    pub address: SocketAddr,
    /// File of the server certificate.
    pub cert: PathBuf,
    /// File of the certificate's key.
    pub key: PathBuf,
    /// File of the CA of client certificates.
    pub ca: PathBuf,
}

/// A user or a group, by name or number, or a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A user.
    User(String),
    /// A group, written as @NAME.
    Group(String),
    /// The name in an operator's certificate, written as cert:NAME.
    Certificate(String),
}

/// Error for a text that names no user, group or certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a user, group or certificate")]
pub struct NotPrincipal;

impl FromStr for Principal {
    type Err = NotPrincipal;

    fn from_str(text: &str) -> Result<Self, NotPrincipal> {
        if let Some(name) = text.strip_prefix("cert:") {
            let identity = Identity::new(IdentityKind::Operator, "any", name);
            return match identity {
                Ok(_) => Ok(Self::Certificate(name.to_owned())),
                Err(_) => Err(NotPrincipal),
            };
        }
        let (name, group) = match text.strip_prefix('@') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let fit = |c: char| c.is_ascii_alphanumeric() || "-_.$".contains(c);
        if name.is_empty() || name.len() > 32 || !name.chars().all(fit) {
            return Err(NotPrincipal);
        }
        let name = name.to_owned();
        Ok(if group {
            Self::Group(name)
        } else {
            Self::User(name)
        })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Group(name) => write!(f, "@{name}"),
            Self::Certificate(name) => write!(f, "cert:{name}"),
        }
    }
}

/// Returns the host names accepted in requests for metrics.
fn hosts(raw: &raw::Api, report: &mut Report<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for name in &raw.metrics_hosts {
        let text = name.get_ref();
        let fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if text.is_empty() || text.len() > 253 || !text.chars().all(fit) {
            let what = format!("{text:?} is not the name of a host");
            report.add(
                name.span(),
                what,
                "write one like edge-1.example.org, without a port",
            );
        } else if raw.metrics.is_none() {
            let what = "host names for metrics, but no address";
            report.add(name.span(), what, "add `metrics`, or remove this");
        }
        found.push(text.clone());
    }
    found
}

pub(super) fn api(raw: &raw::Api, report: &mut Report<'_>) -> Api {
    let metrics = raw
        .metrics
        .as_ref()
        .and_then(|value| address(value, report));
    let remote = remote(raw, report);
    let metrics_hosts = hosts(raw, report);
    let mut list = |names: &[raw::Text]| {
        let mut found: Vec<Principal> = Vec::new();
        for name in names {
            let todo = "write a user like alice, a group like @ops, their numbers, or a certificate like cert:alice";
            let parsed = report.parse(name, "the name of a user or group", todo);
            found.extend(parsed);
        }
        found
    };
    Api {
        metrics_hosts,
        read: list(&raw.read),
        operate: list(&raw.operate),
        admin: list(&raw.admin),
        metrics,
        remote,
    }
}

fn address(value: &raw::Text, report: &mut Report<'_>) -> Option<SocketAddr> {
    report.socket_address(value, "127.0.0.1:9464 or [::1]:9464")
}

fn remote(raw: &raw::Api, report: &mut Report<'_>) -> Option<Remote> {
    let files = [&raw.cert, &raw.key, &raw.ca];
    let Some(listen) = &raw.listen else {
        if let Some(file) = files.into_iter().flatten().next() {
            let todo = "write `listen` as well, or leave it out";
            report.add(file.span(), "the API does not listen on TCP", todo);
        }
        return None;
    };
    let address = address(listen, report);
    let [Some(cert), Some(key), Some(ca)] = files else {
        let todo = "write `cert`, `key` and `ca`: `steer pki issue api` makes them";
        report.add(listen.span(), "the API over TCP needs certificates", todo);
        return None;
    };
    let mut path = |text: &raw::Text| report.path(Some(text.clone()), "/etc/steer/pki/ca.pem");
    let (cert, key, ca) = (path(cert), path(key), path(ca));
    Some(Remote {
        address: address?,
        cert,
        key,
        ca,
    })
}
