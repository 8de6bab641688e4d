//! A simulated fleet under steer and under other policies, side by side; run it by `cargo xtask
//! sim`.

mod plot;
mod report;

use std::{path::PathBuf, process::ExitCode, thread};

use anyhow::{Result, bail};
use clap::Parser;
use steer_simulator::{Scenario, all, large, policy::Maker, series::run_all};
use steer_tests::sim::makers;

use self::report::Table;

/// Run scenarios under policies, and fail where steer is beaten.
#[derive(Parser)]
struct Options {
    /// Run only scenarios whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Run only policies whose names contain one of these, and steer.
    #[arg(long)]
    policy: Vec<String>,
    /// Number of seeds, from 1 on.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Run the scenario of 10,000 servers as well.
    #[arg(long)]
    large: bool,
    /// Highest ratio of steer's p99 of the first token to the best rival's.
    #[arg(long, default_value_t = 1.05)]
    bar: f64,
    /// Number of threads (default: number of CPUs).
    #[arg(long)]
    threads: Option<usize>,
    /// Output folder for figures and plots.
    #[arg(long, default_value = "target/sim")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match simulate(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn scenarios(options: &Options) -> Vec<Scenario> {
    let mut scenarios = all();
    if options.large {
        scenarios.push(large());
    }
    scenarios.retain(|scenario| scenario.name.contains(&options.only));
    scenarios
}

fn policies(options: &Options) -> Vec<Maker> {
    let mut makers = makers();
    let wanted = |name: &str| options.policy.iter().any(|part| name.contains(part));
    let ours = makers[0].name;
    makers.retain(|m| options.policy.is_empty() || m.name == ours || wanted(m.name));
    makers
}

fn simulate(options: &Options) -> Result<()> {
    let (scenarios, makers) = (scenarios(options), policies(options));
    let seeds: Vec<u64> = (1..=options.seeds).collect();
    let cpus = || thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or_else(cpus);
    let mut tables = Vec::new();
    for scenario in &scenarios {
        let mut series = run_all(std::slice::from_ref(scenario), &makers, &seeds, threads);
        let series = series.pop().unwrap_or_default();
        let table = Table::new(scenario, &makers, series);
        table.print();
        plot::first(&table, &options.output)?;
        plot::shares(&table, &options.output)?;
        tables.push(table);
    }
    report::summarize(&tables);
    report::write(&tables, &options.output)?;
    println!(
        "\nsim: plots and latest.json are in {}",
        options.output.display()
    );
    let lost: Vec<String> = tables
        .iter()
        .filter_map(|t| t.beaten(options.bar))
        .collect();
    if !lost.is_empty() {
        bail!(
            "steer is beaten in {} of {}: {}",
            lost.len(),
            tables.len(),
            lost.join("; ")
        );
    }
    Ok(())
}
