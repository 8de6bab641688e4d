//! What can be known of a configuration on its host before it is put to work. Nothing is changed
//! and no packet is sent.

mod certificates;
mod facts;
mod memory;
mod rules;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use self::facts::{Facts, Interface, Route, principal_id};
use crate::config::Config;

/// Something that will not work, or not well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about: an interface, an address, a file.
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub todo: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.subject, self.what, self.todo)
    }
}

/// Looks at this host with the eyes of a configuration.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let facts = Facts::read(config);
    let absent = rules::absent(config, &facts);
    // Elsewhere than on its node, nothing else would be true.
    if absent.len() == config.node.interfaces.len() {
        return absent;
    }
    let mut findings = absent;
    findings.extend(rules::all(config, &facts));
    findings.extend(certificates::check(config, SystemTime::now()));
    findings
}
