//! Failures under load in network namespaces, with default settings; run it by `cargo xtask chaos`.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;
use steer_tests::chaos::{Death, Site, Trial};

/// Goal: time from a failure to the last new flow affected by it.
const GOAL_MS: f64 = 300.0;
/// The same goal where connections are refused, in mode `nat`.
const REFUSED_GOAL_MS: f64 = 50.0;

/// Kill, hang and cut off backends under load, and print when the daemon detected it, when tables
/// followed, when new flows were no longer affected, and how many requests failed.
#[derive(Parser)]
struct Options {
    /// Run only failures whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Modes, separated by commas.
    #[arg(long, default_value = "nat,ipip", value_delimiter = ',')]
    modes: Vec<String>,
    /// Number of times each failure happens, each time to another one of four backends.
    #[arg(long, default_value_t = 4)]
    times: usize,
    /// Requests per second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Output file for the figures.
    #[arg(long, default_value = "target/chaos/latest.json")]
    output: PathBuf,
}

/// Trials of each failure in a mode.
#[derive(Serialize)]
struct Row {
    mode: String,
    death: Death,
    goal_ms: Option<f64>,
    meets: Option<bool>,
    trials: Vec<Trial>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    print_head();
    for mode in &options.modes {
        let mode: &'static str = match mode.as_str() {
            "nat" => "nat",
            "ipip" => "ipip",
            other => anyhow::bail!("mode {other:?} is not nat or ipip"),
        };
        for death in Death::ALL {
            if !death.name().contains(&options.only) {
                continue;
            }
            // A site of its own, so that no earlier failure is remembered.
            let mut site = Site::start(mode, Duration::from_secs(1) / options.rate.max(1))?;
            let victims = site.fleet.names().len();
            let trials = (0..options.times).map(|turn| site.run(death, turn % victims));
            let trials = trials.collect::<Result<Vec<_>>>()?;
            let row = Row::new(mode, death, trials);
            print(&row);
            rows.push(row);
        }
    }
    println!("\nTimes are medians and, in brackets, the longest.");
    if let Some(folder) = options.output.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&options.output, serde_json::to_string_pretty(&rows)?)
        .with_context(|| format!("{}: cannot be written", options.output.display()))
}

impl Row {
    fn new(mode: &str, death: Death, trials: Vec<Trial>) -> Self {
        let goal_ms = match (death, mode) {
            (Death::EngineKilled, "nat") => Some(REFUSED_GOAL_MS),
            (death, mode) if death.keeps_serving(mode) => None,
            _ => death.ends_new_flows().then_some(GOAL_MS),
        };
        let last = trials.iter().filter_map(|trial| trial.last_new_ms);
        let worst = last.fold(0.0, f64::max);
        Self {
            mode: mode.to_owned(),
            death,
            goal_ms,
            meets: if death.keeps_serving(mode) {
                Some(trials.iter().all(Trial::has_no_failure))
            } else {
                goal_ms.map(|goal| worst < goal)
            },
            trials,
        }
    }
}

fn print_head() {
    println!(
        "{:<36}{:>18}{:>16}{:>18}{:>7}{:>10}{:>8}{:>8}{:>9}",
        "",
        "noticed ms",
        "tables ms",
        "last new flow ms",
        "goal",
        "requests",
        "failed:",
        "after",
        "delayed"
    );
}

fn print(row: &Row) {
    let of = |field: fn(&Trial) -> Option<f64>| range(row.trials.iter().filter_map(field));
    let sum = |field: fn(&Trial) -> usize| row.trials.iter().map(field).sum::<usize>();
    let goal = match row.meets {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    };
    println!(
        "{:<36}{:>18}{:>16}{:>18}{goal:>7}{:>10}{:>8}{:>8}{:>9}",
        format!("{}: {}", row.mode, row.death.name()),
        of(|trial| trial.detected_ms),
        of(|trial| trial.table_ms),
        of(|trial| trial.last_new_ms),
        sum(|trial| trial.requests),
        sum(|trial| trial.failed_under_way),
        sum(|trial| trial.failed_after),
        sum(|trial| trial.delayed),
    );
    let mut by: BTreeMap<&str, usize> = BTreeMap::new();
    for trial in &row.trials {
        *by.entry(trial.by.as_deref().unwrap_or("nothing"))
            .or_default() += 1;
    }
    let by: Vec<String> = by.iter().map(|(by, n)| format!("{by} ({n})")).collect();
    println!("    noticed by {}", by.join(", "));
    let elsewhere = sum(|trial| trial.failed_elsewhere);
    if elsewhere > 0 {
        println!("    {elsewhere} requests failed at other backends");
    }
}

/// Returns the median and the maximum.
fn range(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.last() {
        Some(longest) => format!("{:.0} ({longest:.0})", values[(values.len() - 1) / 2]),
        None => "-".to_owned(),
    }
}
