//! The node's certificates: there, of this node, and valid for a while.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime_serde::re::humantime::format_rfc3339_seconds;
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
                findings.extend(ends(files, certificate, now));
            }
        }
        Err(error) => findings.push(unusable("[probe] cert and key", &error)),
    }
    findings
}

fn unusable(subject: &str, error: &dyn std::fmt::Display) -> Finding {
    Finding {
        subject: subject.to_owned(),
        what: error.to_string(),
        todo: "without it no backend can be probed: `steer pki issue node` makes it".to_owned(),
    }
}

fn identity(
    config: &Config,
    files: &ProbeFiles,
    certificate: &rustls::pki_types::CertificateDer<'_>,
) -> Option<Finding> {
    let node = &config.node;
    let found = match Identity::from_certificate(certificate) {
        Ok(found) => found,
        Err(error) => return Some(unusable(&files.cert.display().to_string(), &error)),
    };
    let same = found.kind() == IdentityKind::Node
        && found.name() == node.name
        && found.region() == node.region;
    (!same).then(|| Finding {
        subject: files.cert.display().to_string(),
        what: format!(
            "it is of {found}, and this node is {} in {}",
            node.name, node.region
        ),
        todo: format!(
            "`steer pki issue node {} --region {}`",
            node.name, node.region
        ),
    })
}

fn ends(
    files: &ProbeFiles,
    certificate: &rustls::pki_types::CertificateDer<'_>,
    now: SystemTime,
) -> Option<Finding> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let end = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    let end = UNIX_EPOCH + Duration::from_secs(end);
    (end < now + SOON).then(|| Finding {
        subject: files.cert.display().to_string(),
        what: format!(
            "it {} {}",
            if end < now { "ended" } else { "ends" },
            format_rfc3339_seconds(end)
        ),
        todo: "issue another one; a reload takes it up".to_owned(),
    })
}
