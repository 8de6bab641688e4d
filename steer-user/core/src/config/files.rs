//! Files that a configuration names.

use std::path::Path;

use super::Config;

impl Config {
    /// Files besides the document that are read where the configuration is checked or put to work.
    #[must_use]
    pub fn named_files(&self) -> Vec<&Path> {
        let probe = self.probe.files.iter();
        let probe = probe.flat_map(|files| [&files.ca, &files.cert, &files.key]);
        let remote = self.api.remote.iter();
        let remote = remote.flat_map(|remote| [&remote.ca, &remote.cert, &remote.key]);
        let collector = self.otlp.iter().filter_map(|otlp| otlp.ca.as_ref());
        let keys = self
            .quic
            .iter()
            .filter_map(|layout| layout.key_file.as_ref());
        let others = [&self.probe.http_ca, &self.node.flow_seed_file];
        probe
            .chain(remote)
            .chain(collector)
            .chain(keys)
            .chain(others.into_iter().flatten())
            .map(AsRef::as_ref)
            .collect()
    }
}
