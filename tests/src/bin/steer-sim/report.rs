//! Report as text and as JSON.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::json;
use steer_simulator::{Scenario, policy::Maker, series::Series, statistics::Estimate};

/// Figures of a scenario. Steer is the first policy.
pub(crate) struct Table {
    pub(crate) scenario: Scenario,
    pub(crate) rows: Vec<(Maker, Series)>,
}

/// Returns an estimate as text.
fn text(estimate: Estimate, digits: usize) -> String {
    format!("{:.digits$} ±{:.digits$}", estimate.mean, estimate.margin)
}

fn mean_p99(series: &Series) -> f64 {
    Estimate::of(&series.p99_ms()).mean
}

impl Table {
    pub(crate) fn new(scenario: &Scenario, makers: &[Maker], series: Vec<Series>) -> Self {
        Self {
            scenario: scenario.clone(),
            rows: makers.iter().copied().zip(series).collect(),
        }
    }

    /// Prints means over the seeds, with 95 % confidence intervals.
    pub(crate) fn print(&self) {
        println!(
            "\n{:<32}{:>9}{:>15}{:>9}{:>15}{:>15}{:>10}{:>9}",
            self.scenario.name,
            "requests",
            "failed",
            "doomed",
            "p50 ms",
            "p99 ms",
            "moved/min",
            "strayed"
        );
        for (maker, series) in &self.rows {
            let mean = |figure: fn(&steer_simulator::Outcome) -> f64| series.estimate(figure);
            let moved = series.outcomes.iter().all(|o| o.moved_per_minute.is_some());
            let moved = if moved {
                let moved = mean(|o| o.moved_per_minute.unwrap_or(0.0));
                format!("{:.2}", moved.mean)
            } else {
                String::new()
            };
            println!(
                "  {:<30}{:>9.0}{:>15}{:>9.1}{:>15}{:>15}{moved:>10}{:>9.1}",
                maker.name,
                mean(|o| o.requests as f64).mean,
                text(mean(|o| o.failed as f64), 1),
                mean(|o| o.doomed as f64).mean,
                text(mean(|o| o.first_ms[0]), 0),
                text(mean(|o| o.first_ms[2]), 0),
                mean(|o| o.strayed as f64).mean,
            );
        }
    }

    fn ours(&self) -> &Series {
        &self.rows[0].1
    }

    /// Returns the rival with the lowest p99, if there is one.
    fn best_rival(&self) -> Option<&(Maker, Series)> {
        let rivals = self.rows.iter().skip(1);
        let rivals = rivals.filter(|(maker, _)| !maker.is_bound && !maker.is_ours);
        rivals.min_by(|a, b| mean_p99(&a.1).total_cmp(&mean_p99(&b.1)))
    }

    fn bound(&self, name: &str) -> Option<f64> {
        let bound = self.rows.iter().find(|(maker, _)| maker.name == name)?;
        Some(mean_p99(&bound.1))
    }

    /// Returns a line if steer is beaten by more than the bar allows.
    pub(crate) fn beaten(&self, bar: f64) -> Option<String> {
        let (rival, series) = self.best_rival()?;
        let ratio = Estimate::ratio(&self.ours().p99_ms(), &series.p99_ms());
        (ratio.mean > bar).then(|| {
            format!(
                "{} by {} ({})",
                self.scenario.name,
                rival.name,
                text(ratio, 2)
            )
        })
    }
}

/// Prints a line for each scenario and each policy of steer: its p99, and those of the best rival and the oracles.
pub(crate) fn summarize(tables: &[Table]) {
    let Some(first) = tables.first() else { return };
    let ours = first.rows.iter().filter(|(maker, _)| maker.is_ours);
    for (row, (maker, _)) in ours.enumerate() {
        println!(
            "\n{:<26}{:>13}{:>13}{:>14}{:>16}{:>9}{:>9}  best rival",
            maker.name, "ms", "rival ms", "ratio", "failed (rival)", "oracle r", "oracle c"
        );
        for table in tables {
            summarize_one(table, row);
        }
    }
}

fn summarize_one(table: &Table, row: usize) {
    let Some((maker, rival)) = table.best_rival() else {
        return;
    };
    let series = &table.rows[row].1;
    let (ours, theirs) = (series.p99_ms(), rival.p99_ms());
    let failed = |series: &Series| series.estimate(|o| o.failed as f64).mean;
    let bound = |name| {
        let bound = table.bound(name);
        bound.map_or_else(String::new, |ms| format!("{ms:.0}"))
    };
    println!(
        "  {:<24}{:>13}{:>13}{:>14}{:>16}{:>9}{:>9}  {}",
        table.scenario.name,
        text(Estimate::of(&ours), 0),
        text(Estimate::of(&theirs), 0),
        text(Estimate::ratio(&ours, &theirs), 2),
        format!("{:.1} ({:.1})", failed(series), failed(rival)),
        bound("oracle (request)"),
        bound("oracle (connection)"),
        maker.name,
    );
}

/// Writes the figures of all seeds as `latest.json`.
pub(crate) fn write(tables: &[Table], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let policies = |table: &Table| -> BTreeMap<&str, serde_json::Value> {
        let rows = table.rows.iter();
        rows.map(|(maker, series)| (maker.name, json!(series.outcomes)))
            .collect()
    };
    let all: BTreeMap<_, _> = tables
        .iter()
        .map(|t| (t.scenario.name, policies(t)))
        .collect();
    let path = folder.join("latest.json");
    fs::write(&path, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("{}", path.display()))
}
