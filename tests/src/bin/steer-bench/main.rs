//! Measures what the data path costs for each packet; run it by `cargo xtask bench`.

mod cases;
mod measure;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Measures what the data path costs for each packet, by BPF_PROG_TEST_RUN.
#[derive(Parser)]
struct Options {
    /// File that the figures are written to.
    #[arg(long, default_value = "target/bench/latest.json")]
    output: PathBuf,
    /// Packets in each measurement.
    #[arg(long, default_value_t = 5_000_000)]
    packets: u32,
    /// Measurements of each case, taken in turns; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Numbers of flows, powers of two up to 1048576.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 65_536, 1_048_576])]
    flows: Vec<u32>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let results = measure::run(&options.flows, options.packets, options.rounds)?;
    report::print(&results);
    report::write(&results, &options.output)?;
    report::judge(&results, &options.flows)
}
