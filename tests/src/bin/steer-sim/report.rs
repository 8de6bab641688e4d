//! Report as text and as JSON.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use steer_tests::sim::{Scenario, policy};

use crate::Outcomes;

/// Prints a table of each scenario.
pub(crate) fn print(scenarios: &[Scenario], outcomes: &[Outcomes]) {
    for (scenario, outcomes) in scenarios.iter().zip(outcomes) {
        println!(
            "\n{:<22}{:>9}{:>8}{:>8}{:>9}{:>9}{:>9}{:>10}{:>9}",
            scenario.name,
            "requests",
            "failed",
            "doomed",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "moved/min",
            "strayed"
        );
        for maker in &policy::ALL {
            let outcome = &outcomes[maker.name];
            let [p50, p95, p99] = outcome.first_ms;
            let moved = outcome.moved_per_minute;
            let moved = moved.map_or_else(String::new, |moved| format!("{moved:.2}"));
            println!(
                "  {:<20}{:>9}{:>8}{:>8}{p50:>9.0}{p95:>9.0}{p99:>9.0}{moved:>10}{:>9}",
                maker.name, outcome.requests, outcome.failed, outcome.doomed, outcome.strayed
            );
        }
    }
}

/// Writes the figures as `latest.json`.
pub(crate) fn write(scenarios: &[Scenario], outcomes: &[Outcomes], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let names = scenarios.iter().map(|scenario| scenario.name);
    let all: BTreeMap<_, _> = names.zip(outcomes).collect();
    let path = folder.join("latest.json");
    fs::write(&path, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("{}", path.display()))
}
