//! Measures what the data path costs for each packet; run it by `cargo xtask bench`.

mod case;
mod cases;
mod goal;
mod measure;
mod report;
mod scene;
mod sweep;
mod wire;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use aya::VerifierLogLevel;
use clap::Parser;
use steer_tests::programs;

use crate::{measure::Effort, report::Report};

/// Measures what the data path costs for each packet, by BPF_PROG_TEST_RUN.
///
/// A figure is the least of all rounds, in nanoseconds of this thread's CPU time, less that of a
/// program that does nothing: what else the machine does adds to some rounds and takes from none.
#[derive(Parser)]
struct Options {
    /// File that the figures are written to.
    #[arg(long, default_value = "target/bench/latest.json")]
    output: PathBuf,
    /// Packets of each case in each round.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u32,
    /// Rounds; in each of them all cases take turns.
    #[arg(long, default_value_t = 11)]
    rounds: u32,
    /// Numbers of flows, powers of two up to 1048576.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 65_536, 1_048_576])]
    flows: Vec<u32>,
    /// Only cases whose names contain this, and bare ones.
    #[arg(long)]
    only: Option<String>,
    /// Measure nothing but a sweep of so many nat flows, and how long the loop waits for it.
    #[arg(long, value_name = "FLOWS")]
    sweep: Option<u32>,
    /// Measure nothing but packets a second over a wire: as many as a generator can send, through a
    /// program, and back.
    #[arg(long)]
    wire: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(flows) = options.sweep {
        return sweep::run(flows);
    }
    ensure!(
        options.rounds > 0 && options.packets > 1,
        "nothing to measure"
    );
    if options.wire {
        return wire::run(options.packets, options.rounds);
    }
    let wanted = |name: &str| {
        let only = options.only.as_deref().unwrap_or_default();
        name == "baseline" || name.starts_with("bare") || name.contains(only)
    };
    let mut cases = cases::all();
    cases.retain(|case| wanted(case.name));
    let effort = Effort {
        packets: options.packets,
        rounds: options.rounds,
    };
    let mut programs = Vec::new();
    let push = |_: &str, loaded: Result<_>| {
        programs.push(loaded?);
        Ok(())
    };
    programs::load_each(|_| true, VerifierLogLevel::STATS, push)?;
    let figures = measure::run(&cases, &options.flows, effort)?;
    let report = Report::new(programs, figures, &cases::goals(), &options.flows);
    report.print(&options.flows);
    report.write(&options.output)?;
    report.judge()
}
