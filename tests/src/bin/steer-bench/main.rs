//! Benchmark of the data path per packet; run it by `cargo xtask bench`.

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

/// Measure the cost of the data path per packet, by BPF_PROG_TEST_RUN.
///
/// A figure is the minimum over all rounds, in nanoseconds of this thread's CPU time, minus that of
/// a program that does nothing: other work on the machine only adds to some rounds.
#[derive(Parser)]
struct Options {
    /// Output file for the figures.
    #[arg(long, default_value = "target/bench/latest.json")]
    output: PathBuf,
    /// Packets per case and round.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u32,
    /// Number of rounds; in each of them all cases take turns.
    #[arg(long, default_value_t = 11)]
    rounds: u32,
    /// Numbers of flows, powers of two up to 1048576.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 65_536, 1_048_576])]
    flows: Vec<u32>,
    /// Run only cases whose names contain this, and bare ones.
    #[arg(long)]
    only: Option<String>,
    /// Measure only a garbage collection of this many nat flows, and the wait that it causes for
    /// the loop.
    #[arg(long, value_name = "FLOWS")]
    sweep: Option<u32>,
    /// Measure only packets per second over a wire: from a generator at full speed, through a
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
