//! Report of the test.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// Figures of the test.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Seconds from the start of the installation to the first answer through the node.
    pub(crate) first_answer_s: f64,
    pub(crate) events: Vec<Event>,
}

/// An event under load.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) what: &'static str,
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    /// Distinct reasons of failures.
    pub(crate) reasons: Vec<String>,
    /// Seconds until the daemon steered again.
    pub(crate) seconds: f64,
}

impl Figures {
    /// Returns the number of failed requests.
    pub(crate) fn failed(&self) -> usize {
        self.events.iter().map(|event| event.failed).sum()
    }
}

/// Prints the figures.
pub(crate) fn print(figures: &Figures) {
    println!("\nboot: what was measured");
    println!(
        "   installation to the first answer: {:.1} s",
        figures.first_answer_s
    );
    println!("   {:<44}{:>9}{:>8}{:>9}", "", "requests", "failed", "took");
    for event in &figures.events {
        println!(
            "   {:<44}{:>9}{:>8}{:>7.1} s",
            event.what, event.requests, event.failed, event.seconds
        );
        for reason in &event.reasons {
            println!("      {reason}");
        }
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

pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
