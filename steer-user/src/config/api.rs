//! The section `[api]`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

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
}

/// A user or a group, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A user.
    User(String),
    /// A group, written with an @ in front.
    Group(String),
}

/// Not the name of a user or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a user or group")]
pub struct NotPrincipal;

impl FromStr for Principal {
    type Err = NotPrincipal;

    fn from_str(text: &str) -> Result<Self, NotPrincipal> {
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
        }
    }
}

pub(super) fn api(raw: &raw::Api, report: &mut Report<'_>) -> Api {
    let todo = "write an address and a port, like 127.0.0.1:9464 or [::1]:9464";
    let metrics = raw.metrics.as_ref().and_then(|value| {
        let address: SocketAddr = report.parse(value, "an address and a port", todo)?;
        if address.port() == 0 {
            report.add(value.span(), "0 is not a port", todo);
        }
        Some(address)
    });
    let mut list = |names: &[raw::Text]| {
        let mut found: Vec<Principal> = Vec::new();
        for name in names {
            let todo = "write a user like alice, a group like @ops, or their numbers";
            let parsed = report.parse(name, "the name of a user or group", todo);
            found.extend(parsed);
        }
        found
    };
    Api {
        read: list(&raw.read),
        operate: list(&raw.operate),
        admin: list(&raw.admin),
        metrics,
    }
}
