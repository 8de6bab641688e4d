//! Report about the machines.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{boot::Line, kernel::Expected};

/// Results of one kernel.
#[derive(Serialize)]
pub(super) struct Row {
    series: String,
    release: String,
    lines: Vec<Line>,
    /// Difference from the expectation.
    problem: Option<String>,
}

impl Row {
    pub(super) fn new(series: &str, release: &str, lines: Vec<Line>) -> Self {
        Self {
            series: series.to_owned(),
            release: release.to_owned(),
            lines,
            problem: None,
        }
    }

    /// Creates the row of a kernel that produced no results.
    pub(super) fn failed(series: &str, error: &anyhow::Error) -> Self {
        Self {
            problem: Some(format!("{error:#}")),
            ..Self::new(series, "", Vec::new())
        }
    }

    /// Compares the results with the expectation.
    pub(super) fn expect(mut self, expected: Expected) -> Self {
        let refused = self.lines.iter().find(|line| line.step == "refused");
        self.problem = match (expected, refused) {
            (Expected::Works, Some(line)) => Some(format!("refused: {}", line.text)),
            (Expected::Refused, None) => Some("not refused, although too old".to_owned()),
            _ => {
                let failed = self.lines.iter().filter(|line| !line.ok);
                let steps: Vec<_> = failed.map(|line| line.step.as_str()).collect();
                (!steps.is_empty()).then(|| format!("failed: {}", steps.join("; ")))
            }
        };
        self
    }

    pub(super) const fn is_good(&self) -> bool {
        self.problem.is_none()
    }

    fn line(&self, step: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.step == step)
    }
}

/// Prints a row for each step and a column for each kernel.
pub(super) fn print(rows: &[Row]) {
    let mut steps: Vec<&str> = Vec::new();
    for line in rows.iter().flat_map(|row| &row.lines) {
        if !steps.contains(&line.step.as_str()) && line.step != "done" {
            steps.push(&line.step);
        }
    }
    print!("\n{:<36}", "instructions verified, or result");
    for row in rows {
        print!("{:>12}", row.series);
    }
    println!();
    for step in steps {
        print!("{step:<36}");
        for row in rows {
            let cell = match row.line(step) {
                None => "-".to_owned(),
                Some(Line { ok: false, .. }) => "FAILED".to_owned(),
                Some(Line {
                    program: Some([verified, _]),
                    ..
                }) => verified.to_string(),
                Some(_) => "ok".to_owned(),
            };
            print!("{cell:>12}");
        }
        println!();
    }
    println!();
    for row in rows {
        let state = row.problem.as_deref().unwrap_or("as it has to be");
        println!("{} {}: {state}", row.series, row.release);
        for line in row.lines.iter().filter(|line| !line.text.is_empty()) {
            println!("  {}: {}", line.step, line.text);
        }
    }
}

/// Writes the report as JSON.
pub(super) fn write(rows: &[Row], path: &Path) -> Result<()> {
    fs::write(path, serde_json::to_string_pretty(rows)?)
        .with_context(|| format!("{}: cannot be written", path.display()))
}
