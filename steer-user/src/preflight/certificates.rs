//! The node's certificates: there, of this node, and valid for a while.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Finding;
use crate::{
    config::{Config, ProbeFiles},
    pki::{Identity, IdentityKind, load_credentials, load_roots},
};

/// A certificate that ends within this time is worth a word.
const SOON: Duration = Duration::from_secs(14 * 86_400);

pub(super) fn check(config: &Config, now: SystemTime) -> Vec<Finding> {
    let Some(files) = &config.probe.files else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if let Err(error) = load_roots(&files.ca) {
        findings.push(unusable("[probe] ca", &error));
    }
    match load_credentials(&files.cert, &files.key) {
        Ok(credentials) => {
            if let Some(certificate) = credentials.chain.first() {
                findings.extend(identity(config, files, certificate));
                findings.extend(begins(files, certificate, now));
                findings.extend(ends(config, files, certificate, now));
            }
        }
        Err(error) => findings.push(unusable("[probe] cert and key", &error)),
    }
    findings
}

/// The node's certificate and its CA's, each with its end; those that cannot be read are left out.
pub(super) fn ends_of(config: &Config) -> Vec<(PathBuf, SystemTime)> {
    let Some(files) = &config.probe.files else {
        return Vec::new();
    };
    let mut ends = Vec::new();
    if let Ok(credentials) = load_credentials(&files.cert, &files.key) {
        let end = credentials.chain.first().and_then(|c| end(c));
        ends.extend(end.map(|end| (files.cert.clone(), end)));
    }
    // Of several, what ends first.
    let authorities = CertificateDer::pem_file_iter(&files.ca)
        .into_iter()
        .flatten();
    let first = authorities.flatten().filter_map(|ca| end(&ca)).min();
    ends.extend(first.map(|end| (files.ca.clone(), end)));
    ends
}

fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let end = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(end))
}

fn unusable(subject: &str, error: &dyn std::fmt::Display) -> Finding {
    Finding::new(subject, error.to_string())
        .todo("without it no backend can be probed: `steer pki issue node` makes it")
        .fatal()
}

fn identity(
    config: &Config,
    files: &ProbeFiles,
    certificate: &CertificateDer<'_>,
) -> Option<Finding> {
    let node = &config.node;
    let found = match Identity::from_certificate(certificate) {
        Ok(found) => found,
        Err(error) => return Some(unusable(&files.cert.display().to_string(), &error)),
    };
    let same = found.kind() == IdentityKind::Node
        && found.name() == node.name
        && found.region() == node.region;
    (!same).then(|| {
        let what = format!(
            "it is of {found}, and this node is {} in {}",
            node.name, node.region
        );
        Finding::new(files.cert.display().to_string(), what).fix(issue(config))
    })
}

fn begins(
    files: &ProbeFiles,
    certificate: &CertificateDer<'_>,
    now: SystemTime,
) -> Option<Finding> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let begin = u64::try_from(parsed.validity().not_before.timestamp()).ok()?;
    let begin = UNIX_EPOCH + Duration::from_secs(begin);
    (now < begin).then(|| {
        let begin = format_rfc3339_seconds(begin);
        let what = format!("it is good from {begin} on, and by this host's clock that is to come");
        Finding::new(files.cert.display().to_string(), what)
            .fix("timedatectl set-ntp true")
            .todo("wait")
    })
}

/// The command that makes the node's certificate.
fn issue(config: &Config) -> String {
    let node = &config.node;
    format!(
        "steer pki issue node {} --region {}",
        node.name, node.region
    )
}

fn ends(
    config: &Config,
    files: &ProbeFiles,
    certificate: &CertificateDer<'_>,
    now: SystemTime,
) -> Option<Finding> {
    let end = end(certificate)?;
    (end < now + SOON).then(|| {
        let what = format!(
            "it {} {}",
            if end < now { "ended" } else { "ends" },
            format_rfc3339_seconds(end)
        );
        Finding::new(files.cert.display().to_string(), what)
            .fix(issue(config))
            .todo("have another one made; `steer config apply` takes it up")
    })
}
