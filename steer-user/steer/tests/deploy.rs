//! Tests that the files in `deploy/` match the program.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;

use steer_core::config::Config;

const MANIFEST: &str = include_str!("../../../deploy/kubernetes/node.yaml");

/// Returns the document of the ConfigMap: the text indented below its name.
fn document() -> String {
    let lines = MANIFEST.lines().skip_while(|l| *l != "  steer.toml: |");
    let lines = lines.skip(1).take_while(|line| *line != "---");
    lines.fold(String::new(), |text, line| {
        text + line.strip_prefix("    ").unwrap_or(line) + "\n"
    })
}

#[test]
fn the_config_map_is_a_configuration() {
    let config = Config::parse(&document(), Path::new("node.yaml")).unwrap();
    assert_eq!(config.services.len(), 1);
    // Paths at which the manifest mounts the Secret.
    let files = config.probe.files.unwrap();
    for file in [files.ca, files.cert, files.key] {
        assert!(file.starts_with("/pki"), "{}", file.display());
    }
    assert!(MANIFEST.contains("mountPath: /pki\n"));
}
