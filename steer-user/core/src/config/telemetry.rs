//! The section `[telemetry]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use rustls::pki_types::ServerName;

use super::raw;
use super::report::Report;
use super::settings::Setting;

/// Default port of OTLP over HTTP.
const PORT: u16 = 4318;
/// Path of metrics below a collector's URL.
const PATH: &str = "/v1/metrics";
const URL: &str = "write one like http://127.0.0.1:4318";

/// Export of metrics by OTLP over HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Complete path of metrics.
    pub path: String,
    /// File of the CA of the collector's certificate; present for TLS.
    pub ca: Option<PathBuf>,
    /// Interval between exports.
    pub interval: Duration,
}

impl Otlp {
    /// Returns host and port in the form of a URL.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }
}

/// The path is omitted because it may contain a secret.
impl fmt::Display for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Otlp({self} every {:?})", self.interval)
    }
}

pub(super) fn otlp(raw: &raw::Telemetry, report: &mut Report<'_>) -> Option<Otlp> {
    let Some(url) = &raw.otlp else {
        if let Some(key) = raw.otlp_interval.as_ref().or(raw.otlp_ca.as_ref()) {
            let todo = "write `otlp` as well, or leave it out";
            report.add(key.span(), "metrics are not exported", todo);
        }
        return None;
    };
    let interval = report.time(raw.otlp_interval.as_ref(), Setting::OtlpInterval);
    let ca = raw.otlp_ca.clone();
    let ca = ca.map(|ca| (ca.span(), report.path(Some(ca), "/etc/steer/pki/web.pem")));
    let parts = match parts(url.get_ref()) {
        Ok(parts) => parts,
        Err(what) => {
            report.add(url.span(), what, URL);
            return None;
        }
    };
    match (parts.tls, &ca) {
        (true, None) => {
            let what = "https:// requires the CA of the collector's certificate";
            report.add(url.span(), what, "write `otlp_ca`, or http://");
        }
        (false, Some((span, _))) => {
            let todo = "leave it out, or write https://";
            report.add(span.clone(), "http:// uses no certificates", todo);
        }
        (true, Some(_)) | (false, None) => {}
    }
    Some(Otlp {
        host: parts.host,
        port: parts.port,
        path: parts.path,
        ca: ca.map(|(_, ca)| ca),
        interval,
    })
}

/// Parts of a URL.
struct Parts {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

fn parts(url: &str) -> Result<Parts, String> {
    let wrong = || format!("{url:?} is not the URL of a collector");
    // A fragment is not part of a request, and the parser does not keep it either.
    if url.contains('#') {
        return Err("a fragment in the URL".to_owned());
    }
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?.as_str();
    if authority.contains('@') {
        return Err("a user or password in the URL".to_owned());
    }
    if uri.query().is_some() {
        return Err("a query in the URL".to_owned());
    }
    let written = uri.host().ok_or_else(wrong)?;
    let host = written.trim_matches(['[', ']']);
    let port = match authority.strip_prefix(written) {
        Some("") => PORT,
        _ => uri.port_u16().filter(|port| *port > 0).ok_or_else(wrong)?,
    };
    if ServerName::try_from(host).is_err() {
        return Err(wrong());
    }
    Ok(Parts {
        tls,
        host: host.to_owned(),
        port,
        path: format!("{}{PATH}", uri.path().trim_end_matches('/')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Option<(String, u16, String)> {
        let parts = parts(url).ok()?;
        Some((parts.host, parts.port, parts.path))
    }

    #[test]
    fn urls_are_hosts_ports_and_paths() {
        for (url, host, port, path) in [
            ("http://collector", "collector", 4318, "/v1/metrics"),
            ("http://10.0.0.1:80/", "10.0.0.1", 80, "/v1/metrics"),
            ("https://[fd00::1]:1", "fd00::1", 1, "/v1/metrics"),
            ("http://[fd00::1]", "fd00::1", 4318, "/v1/metrics"),
            ("http://a.b:2/otlp", "a.b", 2, "/otlp/v1/metrics"),
        ] {
            let expected = (host.to_owned(), port, path.to_owned());
            assert_eq!(read(url), Some(expected), "{url}");
        }
        for url in [
            "",
            "collector",
            "/v1",
            "grpc://a:4317",
            "http://",
            "http://a:0",
            "http://a:",
            "http://a:70000",
            "http://[::1",
            "http://a b",
            "http://a/#b",
            "http://a?",
            "http://x@a",
            "http://-/",
        ] {
            assert_eq!(read(url), None, "{url}");
        }
    }

    #[test]
    fn what_is_logged_of_it_has_no_path() {
        let otlp = Otlp {
            host: "fd00::1".to_owned(),
            port: 80,
            path: "/secret/v1/metrics".to_owned(),
            ca: None,
            interval: Setting::OtlpInterval.default_time(),
        };
        assert_eq!(otlp.to_string(), "http://[fd00::1]:80");
        assert!(!format!("{otlp:?}").contains("secret"));
    }
}
