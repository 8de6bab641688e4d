//! A simulated fleet under steer and under other policies, side by side; run it by `cargo xtask
//! sim`.

mod plot;
mod report;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError, atomic::AtomicUsize, atomic::Ordering},
    thread,
};

use anyhow::Result;
use clap::Parser;
use steer_tests::sim::{Outcome, Scenario, all, large, policy, run};

/// Run scenarios under policies.
#[derive(Parser)]
struct Options {
    /// Run only scenarios whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Seed, instead of the default one.
    #[arg(long)]
    seed: Option<u64>,
    /// Output folder for figures and plots.
    #[arg(long, default_value = "target/sim")]
    output: PathBuf,
}

/// Outcomes of a scenario by policy.
type Outcomes = BTreeMap<&'static str, Outcome>;

fn main() -> ExitCode {
    match simulate(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(options: &Options) -> Result<()> {
    let mut scenarios = all();
    scenarios.push(large());
    scenarios.retain(|scenario| scenario.name.contains(&options.only));
    if let Some(seed) = options.seed {
        scenarios.iter_mut().for_each(|s| s.seed = seed);
    }
    let outcomes = run_all(&scenarios);
    report::print(&scenarios, &outcomes);
    report::write(&scenarios, &outcomes, &options.output)?;
    for (scenario, outcomes) in scenarios.iter().zip(&outcomes) {
        plot::first(scenario, outcomes, &options.output)?;
        plot::shares(scenario, &outcomes[policy::ALL[0].name], &options.output)?;
    }
    println!(
        "sim: plots and latest.json are in {}",
        options.output.display()
    );
    Ok(())
}

/// Runs each scenario under each policy, on all CPUs.
fn run_all(scenarios: &[Scenario]) -> Vec<Outcomes> {
    let jobs: Vec<_> = (0..scenarios.len())
        .flat_map(|scenario| (0..policy::ALL.len()).map(move |policy| (scenario, policy)))
        .collect();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![Outcomes::new(); scenarios.len()]);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| {
                while let Some((scenario, policy)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let maker = &policy::ALL[*policy];
                    let outcome = run(&scenarios[*scenario], maker);
                    let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    all[*scenario].insert(maker.name, outcome);
                }
            });
        }
    });
    outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}
