//! Report with expectations.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use steer_tests::summary::Summary;

/// Figures of the demonstration.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) phases: Vec<Phase>,
    /// Time from the death of the nearest backend to the start of the last failed request.
    pub(crate) death_to_last_failure_ms: f64,
    pub(crate) failed_by_death: usize,
    pub(crate) lost_to_daemon_death: usize,
    pub(crate) expectations: Vec<Expectation>,
}

/// A phase of the demonstration.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    name: &'static str,
    requests: usize,
    failures: usize,
    /// Share of the successful answers by backend.
    share: BTreeMap<&'static str, f64>,
    /// Median and 95th percentile, in milliseconds.
    first_byte_ms: [f64; 2],
    last_byte_ms: [f64; 2],
}

impl Phase {
    pub(crate) fn new(name: &'static str, names: &[&'static str], summary: &Summary) -> Self {
        let millis = |times: [Duration; 2]| times.map(|time| time.as_secs_f64() * 1000.0);
        Self {
            name,
            requests: summary.requests,
            failures: summary.failures,
            share: names.iter().map(|n| (*n, summary.share(n))).collect(),
            first_byte_ms: millis(summary.first),
            last_byte_ms: millis(summary.total),
        }
    }
}

/// A condition that must hold.
#[derive(Debug, Serialize)]
pub(crate) struct Expectation {
    pub(crate) what: String,
    pub(crate) held: bool,
}

/// Prints the figures.
pub(crate) fn print(figures: &Figures) {
    println!("\ndemo: what was measured");
    println!(
        "   {:<24}{:>9}{:>8}   share near/middle/far",
        "", "requests", "failed"
    );
    for phase in &figures.phases {
        let share = |name: &str| phase.share.get(name).copied().unwrap_or_default() * 100.0;
        println!(
            "   {:<24}{:>9}{:>8}   {:.0} / {:.0} / {:.0} %",
            phase.name,
            phase.requests,
            phase.failures,
            share("near"),
            share("middle"),
            share("far"),
        );
    }
    println!(
        "   death of the nearest to the last failed request: {:.0} ms, {} failed",
        figures.death_to_last_failure_ms, figures.failed_by_death
    );
    println!(
        "   requests lost to the daemon's death: {}",
        figures.lost_to_daemon_death
    );
    for expectation in &figures.expectations {
        let word = if expectation.held { "ok    " } else { "FAILED" };
        println!("   {word} {}", expectation.what);
    }
}

/// Writes the figures as JSON.
pub(crate) fn write(figures: &Figures, path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_string_pretty(figures)?)
        .with_context(|| format!("{}: cannot be written", path.display()))
}
