//! Check of the `Host` header on addresses that browsers can reach: a page whose name was made to
//! resolve to this address (DNS rebinding) sends its own name.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::server::ApiError;

/// Host names accepted besides addresses and localhost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// Creates the list from names, ignoring case.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(
            names
                .into_iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
        )
    }

    /// Checks the value of a `Host` header.
    fn allow(&self, host: &str) -> bool {
        let host = host.trim();
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, port)) => {
                let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_number);
                return is_port && address.parse::<std::net::Ipv6Addr>().is_ok();
            }
            None => match host.rsplit_once(':') {
                Some((name, port)) if is_number(port) => name,
                Some(_) => return false,
                None => host,
            },
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok() || name == "localhost" || self.0.contains(&name)
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

/// Middleware that accepts requests for allowed hosts. A request without a host does not come from
/// a browser.
pub(super) async fn check(
    State(hosts): State<AllowedHosts>,
    request: Request,
    next: Next,
) -> Response {
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let named = request.headers().get_all(header::HOST).iter();
    let named = named
        .map(|host| host.to_str().unwrap_or(""))
        .chain(authority);
    for host in named {
        if !hosts.allow(host) {
            let text = format!(
                "this address does not serve the host {host:?}; use its IP address, or add the \
                 name to `metrics_hosts` of [api]"
            );
            return ApiError(StatusCode::MISDIRECTED_REQUEST, text).into_response();
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_configured_names_are_allowed() {
        let hosts = AllowedHosts::new(["Edge-1.example.org".to_owned()]);
        for (host, allowed) in [
            ("192.0.2.1", true),
            ("192.0.2.1:9464", true),
            ("[2001:db8::1]:9464", true),
            ("[2001:db8::1]", true),
            ("localhost:9464", true),
            ("LOCALHOST.", true),
            ("edge-1.EXAMPLE.org:9464", true),
            ("edge-1.example.org.evil.test", false),
            ("evil.test:9464", false),
            ("192.0.2.1.evil.test", false),
            ("[evil.test]:9464", false),
            ("192.0.2.1:x", false),
            ("", false),
        ] {
            assert_eq!(hosts.allow(host), allowed, "{host:?}");
        }
    }
}
