//! `steer config check`.

use std::path::PathBuf;

use clap::Args;
use steer_core::config::{Config, ConfigError, Document};

use crate::{
    cli::error::{Exit, Failure},
    preflight::{self, Finding, Severity},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// Path of the configuration; the `conf.d/*.toml` files beside it are included.
    #[arg(default_value = "/etc/steer/steer.toml")]
    file: PathBuf,
    /// Check only the document, and not this host: interfaces, routes, MTU, ports, memory,
    /// certificates.
    #[arg(long)]
    document_only: bool,
    /// Fail on warnings about this host as well, and not only on what would prevent a daemon from
    /// starting.
    #[arg(long, conflicts_with = "document_only")]
    strict: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (document, checked) = match Document::read(&self.file) {
            Ok(document) => {
                let checked = document.config();
                (document, checked)
            }
            Err(error) => (Document::default(), Err(error)),
        };
        let files = document.files.len();
        let findings = match &checked {
            // Notes are left to `steer doctor`.
            Ok(config) if !self.document_only => {
                let mut findings = preflight::check(config);
                findings.retain(|finding| finding.severity != Severity::Note);
                findings
            }
            _ => Vec::new(),
        };
        if self.json {
            println!("{}", json(&self.file, checked.as_ref().err(), &findings));
        }
        let config = checked.map_err(|error| self.refused(&error))?;
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let (fatal, warnings) = (count(Severity::Fatal), count(Severity::Warning));
        let fits = fatal == 0 && (warnings == 0 || !self.strict);
        if !self.json {
            for finding in &findings {
                println!(
                    "{}{}: {finding}",
                    place(&document, finding),
                    finding.severity
                );
            }
            if fits {
                self.print(&config, files);
            }
        }
        if fits {
            return Ok(());
        }
        let what = anyhow::anyhow!(
            "{}: the document is valid, but this host does not fit ({fatal} fatal, {warnings} \
             warnings); --document-only skips the checks of the host",
            self.file.display()
        );
        Err(Failure::new(Exit::Config, what))
    }

    /// Returns all problems, followed by a verdict.
    fn refused(&self, error: &ConfigError) -> Failure {
        let verdict = match error {
            ConfigError::Invalid { problems } => {
                let (count, s) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
                format!("\n{}: invalid: {count} mistake{s}", self.file.display())
            }
            ConfigError::Read { .. } | ConfigError::Stopped => String::new(),
        };
        Failure::new(Exit::Config, anyhow::anyhow!("{error}{verdict}"))
    }

    fn print(&self, config: &Config, files: usize) {
        let from = match files {
            1 => String::new(),
            files => format!(" in {files} files"),
        };
        println!(
            "{}: valid: {} services, {} pools, {} backends{from}",
            self.file.display(),
            config.services.len(),
            config.pools.len(),
            config.backends.len()
        );
    }
}

/// Returns file and line of the key that a finding is about, in the notation of editors.
fn place(document: &Document, finding: &Finding) -> String {
    let found = finding
        .key
        .and_then(|(section, key)| document.line_of(section, key));
    found.map_or_else(String::new, |(file, line)| {
        format!("{}:{line}: ", file.display())
    })
}

fn json(
    file: &std::path::Path,
    error: Option<&ConfigError>,
    findings: &[Finding],
) -> serde_json::Value {
    let problems: Vec<String> = error.map_or_else(Vec::new, |error| {
        error.to_string().lines().map(str::to_owned).collect()
    });
    serde_json::json!({
        "file": file,
        "good": error.is_none(),
        "problems": problems,
        "warnings": findings,
    })
}
