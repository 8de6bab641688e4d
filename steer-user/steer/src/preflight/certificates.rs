//! Checks of the certificates that this node uses, for probes, its API and export of metrics:
//! present, issued for this node by their CA, and valid for a while.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
};
use steer_core::config::{CidLayout, Config};
use steer_probe::pki::{
    Credentials, Identity, IdentityKind, keys_match, load_credentials, load_roots, read_pem,
    verify_at,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Finding, Severity};

/// Remaining validity below which a certificate is reported.
const SOON: Duration = Duration::from_secs(14 * 86_400);

pub(super) fn check(config: &Config, now: SystemTime) -> Vec<Finding> {
    let all = held(config);
    let mut findings: Vec<Finding> = all.iter().flat_map(|held| held.check(now)).collect();
    findings.extend(collector(config, now));
    findings.extend(config.quic.iter().filter_map(connection_ids));
    findings
}

/// Checks the key of encrypted connection ids, without which a configuration is not applied.
fn connection_ids(layout: &CidLayout) -> Option<Finding> {
    let error = layout.key().err()?;
    let section = format!("[[quic]] of rotation {}", layout.rotation);
    let todo = "put the servers' key there: the configuration cannot be applied without it";
    Some(Finding::new(section, error.to_string()).fatal().todo(todo))
}

/// Returns the fatal findings about certificates that hold on any host, as far as the files exist.
pub(super) fn unusable(config: &Config, now: SystemTime) -> Vec<Finding> {
    let here = |held: &Held<'_>| {
        [held.ca, held.cert, held.key]
            .iter()
            .all(|file| file.exists())
    };
    let held = held(config).into_iter().filter(here);
    let mut findings: Vec<Finding> = held.flat_map(|held| held.check(now)).collect();
    findings.retain(|finding| finding.severity == Severity::Fatal);
    findings
}

/// Checks the CA of the metrics collector. It belongs to someone else, and without it only metrics
/// are not exported.
fn collector(config: &Config, now: SystemTime) -> Option<Finding> {
    let ca = config.otlp.as_ref()?.ca.as_ref()?;
    if let Err(error) = load_roots(ca) {
        let finding = Finding::new("[telemetry] otlp_ca".to_owned(), error.to_string());
        return Some(finding.todo(
            "metrics cannot be exported without it: put the CA of the collector's certificate \
             there, as PEM",
        ));
    }
    let what = ends(authorities(ca).into_iter().max()?, now)?;
    let todo =
        "get the collector's next CA, and add it to this file, which is read for each export";
    Some(Finding::new(ca.display().to_string(), what).todo(todo))
}

/// Returns the ends of validity of the node's certificates and their CAs; unreadable ones are
/// skipped.
pub(super) fn ends_of(config: &Config) -> Vec<(PathBuf, SystemTime)> {
    let mut ends = Vec::new();
    for Held { ca, cert, key, .. } in held(config) {
        if let Ok(credentials) = load_credentials(cert, key) {
            let end = credentials.chain.first().and_then(|c| end(c));
            ends.extend(end.map(|end| (cert.to_owned(), end)));
        }
        ends.extend(first_end(ca));
    }
    let collector = config.otlp.as_ref().and_then(|otlp| otlp.ca.as_deref());
    ends.extend(collector.and_then(first_end));
    ends
}

/// Returns a file of CAs with the end of the first one to expire.
fn first_end(ca: &Path) -> Option<(PathBuf, SystemTime)> {
    let first = authorities(ca).into_iter().min()?;
    Some((ca.to_owned(), first))
}

/// A certificate used by this node.
struct Held<'c> {
    config: &'c Config,
    /// Section with its files.
    section: &'static str,
    kind: IdentityKind,
    ca: &'c Path,
    cert: &'c Path,
    key: &'c Path,
}

fn held(config: &Config) -> Vec<Held<'_>> {
    let probe = config.probe.files.as_ref().map(|files| Held {
        config,
        section: "[probe]",
        kind: IdentityKind::Node,
        ca: &files.ca,
        cert: &files.cert,
        key: &files.key,
    });
    let api = config.api.remote.as_ref().map(|remote| Held {
        config,
        section: "[api]",
        kind: IdentityKind::Api,
        ca: &remote.ca,
        cert: &remote.cert,
        key: &remote.key,
    });
    probe.into_iter().chain(api).collect()
}

impl Held<'_> {
    fn check(&self, now: SystemTime) -> Vec<Finding> {
        let mut findings = Vec::new();
        let roots = load_roots(self.ca);
        if let Err(error) = &roots {
            let finding = self.unusable("ca", error);
            findings.push(finding.of_key(self.table(), "ca"));
        }
        findings.extend(self.authority_ends(now));
        let credentials = match load_credentials(self.cert, self.key) {
            Ok(credentials) => credentials,
            Err(error) => {
                let of_cert = error
                    .to_string()
                    .starts_with(&self.cert.display().to_string());
                let key = if of_cert { "cert" } else { "key" };
                let finding = self.unusable("cert and key", &error);
                findings.push(finding.of_key(self.table(), key));
                return findings;
            }
        };
        let Some(certificate) = credentials.chain.first() else {
            return findings;
        };
        if !keys_match(&credentials) {
            findings.push(self.wrong_pair());
            return findings;
        }
        let other = self.identity(certificate);
        if let (None, Ok(roots)) = (&other, roots) {
            findings.extend(self.unfit(&credentials, roots, now));
        }
        findings.extend(other);
        findings.extend(self.begins(certificate, now));
        findings.extend(self.ends(certificate, now));
        findings
    }

    /// Without it the daemon does not probe; its API still works on the socket.
    fn unusable(&self, keys: &str, error: &dyn std::fmt::Display) -> Finding {
        let finding = Finding::new(format!("{} {keys}", self.section), error.to_string());
        match self.kind {
            IdentityKind::Api => {
                let todo =
                    "the API cannot serve TCP without it: create it with `steer pki issue api`";
                finding.todo(todo)
            }
            _ => finding
                .todo("backends cannot be probed without it: create it with `steer pki issue node`")
                .fatal(),
        }
    }

    /// A certificate without its own key is useless.
    fn wrong_pair(&self) -> Finding {
        let (key, cert) = (self.key.display(), self.cert.display());
        let what = format!("{key} does not belong to the certificate {cert}");
        let finding = Finding::new(format!("{} key", self.section), what)
            .fix(self.issue())
            .todo("use the key that was created with it")
            .of_key(self.table(), "key");
        match self.kind {
            IdentityKind::Api => finding,
            _ => finding.fatal(),
        }
    }

    /// Returns the section name without brackets.
    fn table(&self) -> &'static str {
        match self.kind {
            IdentityKind::Api => "api",
            _ => "probe",
        }
    }

    fn about(&self, what: String) -> Finding {
        Finding::new(self.cert.display().to_string(), what)
            .fix(self.issue())
            .of_key(self.table(), "cert")
    }

    /// Returns the command that issues it.
    fn issue(&self) -> String {
        let (name, region) = (&self.config.node.name, &self.config.node.region);
        match &self.config.api.remote {
            Some(remote) if self.kind == IdentityKind::Api => {
                let host = remote.address.ip();
                // With an unspecified address, clients use one of the others.
                let host = match host.is_unspecified() {
                    true => "ADDRESS".to_owned(),
                    false => host.to_string(),
                };
                format!("steer pki issue api {name}-api --region {region} --host {host}")
            }
            _ => format!("steer pki issue node {name} --region {region}"),
        }
    }

    fn identity(&self, certificate: &CertificateDer<'_>) -> Option<Finding> {
        let node = &self.config.node;
        let found = match Identity::from_certificate(certificate) {
            Ok(found) => found,
            Err(error) => {
                return Some(self.unusable(&format!("cert {}", self.cert.display()), &error));
            }
        };
        // The name of an API matters only to its clients.
        let same = found.kind() == self.kind
            && (self.kind == IdentityKind::Api
                || found.name() == node.name && found.region() == node.region);
        let wanted = match self.kind {
            IdentityKind::Api => "this needs one of kind api".to_owned(),
            _ => format!("this node is {} in {}", node.name, node.region),
        };
        (!same).then(|| self.about(format!("it is for {found}, but {wanted}")))
    }

    /// Returns whether its key belongs to another one, or its CA did not issue it. Does not check
    /// the validity period.
    fn unfit(
        &self,
        credentials: &Credentials,
        roots: RootCertStore,
        now: SystemTime,
    ) -> Option<Finding> {
        let certificate = credentials.chain.first()?;
        let now = now.max(not_before(certificate)?).min(end(certificate)?);
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).ok()?);
        let error = verify_at(credentials, &Arc::new(roots), self.kind, self.cert, now).err()?;
        let what = format!(
            "with {} and {}: {error}",
            self.key.display(),
            self.ca.display()
        );
        let finding = Finding::new(format!("{} cert", self.section), what).fix(self.issue());
        Some(finding.of_key(self.table(), "cert"))
    }

    fn begins(&self, certificate: &CertificateDer<'_>, now: SystemTime) -> Option<Finding> {
        let begin = not_before(certificate)?;
        (now < begin).then(|| {
            let begin = format_rfc3339_seconds(begin);
            let what =
                format!("it is valid from {begin}, which is in the future by this host's clock");
            Finding::new(self.cert.display().to_string(), what)
                .fix("timedatectl set-ntp true")
                .todo("wait")
        })
    }

    fn ends(&self, certificate: &CertificateDer<'_>, now: SystemTime) -> Option<Finding> {
        let what = ends(end(certificate)?, now)?;
        let todo = "issue a new one, and replace the file: it is reloaded automatically";
        Some(self.about(what).todo(todo))
    }

    /// Returns a finding about expiring CAs. During a replacement the old and the new one are
    /// present: the last one counts.
    fn authority_ends(&self, now: SystemTime) -> Option<Finding> {
        let what = ends(authorities(self.ca).into_iter().max()?, now)?;
        let todo = "create a new one with `steer pki init` in a folder of its own, add it to this \
                    file on all hosts, and issue new certificates";
        Some(Finding::new(self.ca.display().to_string(), what).todo(todo))
    }
}

/// Returns a finding about the end of validity, if it is near.
fn ends(end: SystemTime, now: SystemTime) -> Option<String> {
    (end < now + SOON).then(|| {
        let word = if end < now { "ended" } else { "ends" };
        format!("it {word} {}", format_rfc3339_seconds(end))
    })
}

/// Returns the ends of validity of the CAs in a file.
fn authorities(ca: &Path) -> Vec<SystemTime> {
    let pem = read_pem(ca).unwrap_or_default();
    let all = CertificateDer::pem_slice_iter(pem.as_bytes());
    all.flatten().filter_map(|ca| end(&ca)).collect()
}

fn not_before(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    time(parsed.validity().not_before.timestamp())
}

fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    time(parsed.validity().not_after.timestamp())
}

fn time(seconds: i64) -> Option<SystemTime> {
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}
