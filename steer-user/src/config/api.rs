//! The section `[api]`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use steer_probe::pki::{Identity, IdentityKind};

use super::raw;
use super::report::Report;

/// Who may use the API besides root, and where metrics are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// May see.
    pub read: Vec<Principal>,
    /// May drain backends, confirm and roll back, too.
    pub operate: Vec<Principal>,
    /// May apply configurations, too.
    pub admin: Vec<Principal>,
    /// Where metrics are served by TCP, to anybody.
    pub metrics: Option<SocketAddr>,
    /// Names of hosts that metrics may be asked for by, besides addresses and localhost.
    pub metrics_hosts: Vec<String>,
    /// The API by TCP.
    pub remote: Option<Remote>,
}

/// The API by TCP: where, and with which certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its certificate.
    pub cert: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// The CA of its clients.
    pub ca: PathBuf,
}

/// A user or a group, by name or number, or a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A user.
    User(String),
    /// A group, written with an @ in front.
    Group(String),
    /// The name in the certificate of an operator, written with cert: in front.
    Certificate(String),
}

/// Not the name of a user, group or certificate.
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

/// Names that metrics may be asked for by.
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
            let what = "names for metrics, but no address of them";
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
            report.add(file.span(), "the API does not listen by TCP", todo);
        }
        return None;
    };
    let address = address(listen, report);
    let [Some(cert), Some(key), Some(ca)] = files else {
        let todo = "write `cert`, `key` and `ca`: `steer pki issue api` makes them";
        report.add(listen.span(), "the API by TCP needs certificates", todo);
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
