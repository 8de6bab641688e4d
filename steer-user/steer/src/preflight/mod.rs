//! Preflight checks of a configuration on its host. They change nothing, and send no packet unless
//! stated.

mod certificates;
mod ethtool;
mod facts;
mod finding;
mod generic;
mod host;
mod links;
mod memory;
mod rules;
mod system;
#[cfg(test)]
mod tests;
mod ways;

use std::{path::PathBuf, time::SystemTime};

use steer_core::config::Config;

pub use self::ethtool::Offloads;
pub use self::facts::{Facts, Interface, Route, principal_id};
pub use self::finding::{Finding, Severity};
pub use self::host::probe_files;
pub use self::links::Link;
pub use self::system::System;
pub use self::ways::Way;

/// Returns the ends of validity of the node's certificate and its CA, with their files.
#[must_use]
pub fn certificate_ends(config: &Config) -> Vec<(PathBuf, SystemTime)> {
    certificates::ends_of(config)
}

/// Checks this host for a configuration. The most severe findings come first.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    judge(config, &Facts::read(config), false)
}

/// Works like [`check`], and also checks this process as a daemon.
#[must_use]
pub fn before_start(config: &Config) -> Vec<Finding> {
    judge(config, &Facts::read(config), true)
}

/// Works like [`before_start`], and also asks the next hops of backends, by an empty datagram.
#[must_use]
pub fn doctor(config: &Config) -> Vec<Finding> {
    let mut facts = Facts::read(config);
    facts.ask_neighbours(config);
    judge(config, &facts, true)
}

fn judge(config: &Config, facts: &Facts, process: bool) -> Vec<Finding> {
    let mut findings = rules::absent(config, facts);
    // On another host than its node, only findings about files are meaningful.
    if findings.len() == config.node.interfaces.len() {
        findings.extend(certificates::unusable(config, SystemTime::now()));
        return findings;
    }
    findings.extend(rules::all(config, facts));
    findings.extend(generic::all(config, facts));
    findings.extend(ways::all(config, facts));
    findings.extend(host::of_host(config, facts));
    findings.extend(host::neighbours(config, facts));
    if process {
        findings.extend(host::of_process(config, facts));
    }
    findings.extend(certificates::check(config, SystemTime::now()));
    findings.sort_by_key(|finding| finding.severity);
    findings
}
