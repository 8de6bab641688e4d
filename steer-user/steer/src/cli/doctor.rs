//! `steer doctor`.

use std::path::PathBuf;

use clap::Args;
use steer_core::config::Config;

use super::error::{Exit, Failure};
use crate::preflight::{self, Finding, Severity};

/// Check the host for problems, and print commands that fix them.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Path of the configuration; the `conf.d/*.toml` files beside it are included.
    #[arg(long, default_value = "/etc/steer/steer.toml")]
    config: PathBuf,
    /// Fail on warnings as well.
    #[arg(long)]
    strict: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = Config::load(&self.config).map_err(|e| Failure::new(Exit::Config, e))?;
        let findings = preflight::doctor(&config);
        if self.json {
            let answer = serde_json::json!({ "findings": findings });
            println!("{}", serde_json::to_string_pretty(&answer)?);
        } else {
            print!("{}", words(&findings));
        }
        let worst = if self.strict {
            Severity::Warning
        } else {
            Severity::Fatal
        };
        let bad = findings.iter().filter(|f| f.severity <= worst).count();
        match bad {
            0 => Ok(()),
            _ => Err(Failure::new(
                Exit::Failed,
                anyhow::anyhow!("{bad} to fix first"),
            )),
        }
    }
}

fn words(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        text += &format!(
            "{}: {}: {}\n",
            finding.severity, finding.subject, finding.what
        );
        if let Some(fix) = &finding.fix {
            text += &format!("    {fix}\n");
        }
        if !finding.todo.is_empty() {
            let or = if finding.fix.is_some() { "or " } else { "" };
            text += &format!("    {or}{}\n", finding.todo);
        }
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    text += &match findings.len() {
        0 => "all is well\n".to_owned(),
        _ => format!(
            "{} fatal, {} warnings, {} notes\n",
            count(Severity::Fatal),
            count(Severity::Warning),
            count(Severity::Note)
        ),
    };
    text
}

/// Checks the host before a daemon starts: logs all findings, and fails if one is fatal.
pub(super) fn before_start(config: &Config) -> Result<(), Failure> {
    let findings = preflight::before_start(config);
    let (fatal, rest): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| finding.severity == Severity::Fatal);
    for finding in rest.iter().filter(|f| f.severity == Severity::Warning) {
        tracing::warn!("{finding}");
    }
    if fatal.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = fatal.iter().map(ToString::to_string).collect();
    Err(Failure::new(
        Exit::Failed,
        anyhow::anyhow!("{}", lines.join("\n")),
    ))
}
