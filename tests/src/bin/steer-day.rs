//! Simulated days of slow pages, long prompts, pauses and restarts: no server that serves its
//! clients may be ejected.

use std::{
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use clap::Parser;
use steer_simulator::{Scenario, day, run};
use steer_tests::sim::STEER;

/// Run the daemon's controller through simulated days, and count ejections of servers that served
/// their clients. Fails if there is one.
#[derive(Parser)]
struct Options {
    /// Hours of each day.
    #[arg(long, default_value_t = 24)]
    hours: u64,
    /// Number of days.
    #[arg(long, default_value_t = 2)]
    days: u64,
    /// Seed of the first day.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulate beacons that treat weak signs as verdicts, and report engines as hung.
    #[arg(long)]
    verdicts: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let length = Duration::from_secs(3600 * options.hours);
    let seeds = options.seed..options.seed + options.days;
    let waiting = Mutex::new(seeds.map(|seed| day(length, seed)).collect::<Vec<_>>());
    let ejections = Mutex::new(0);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| {
                while let Some(scenario) = next(&waiting) {
                    let found = simulate(&Scenario {
                        hints: !options.verdicts,
                        ..scenario
                    });
                    *ejections.lock().unwrap_or_else(PoisonError::into_inner) += found;
                }
            });
        }
    });
    match ejections.into_inner() {
        Ok(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn next(waiting: &Mutex<Vec<Scenario>>) -> Option<Scenario> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn simulate(scenario: &Scenario) -> usize {
    let outcome = run(scenario, &STEER);
    println!(
        "day: seed {}: {} things happened in {} h; {} ejections of servers that served; {} of {} requests \
         failed, {} of them at a server that died",
        scenario.seed,
        scenario.acts.len() / 2,
        scenario.length.as_secs() / 3600,
        outcome.ejections,
        outcome.failed,
        outcome.requests,
        outcome.doomed,
    );
    outcome.ejections
}
