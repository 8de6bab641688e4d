//! Random faults under load, for an hour or less; run it by `cargo xtask soak`.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use steer_tests::chaos::{Soak, Soaked, soak};

/// Inject random faults under load. Fails if no fault explains a failed request, or if the daemon
/// grew.
#[derive(Parser)]
struct Options {
    /// Duration in minutes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Seed; random by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Requests per second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Print each fault.
    #[arg(long)]
    verbose: bool,
    /// Output file for the figures.
    #[arg(long, default_value = "target/soak/latest.json")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let seed = options
        .seed
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("soak: {} minutes with seed {seed}", options.minutes);
    let plan = Soak {
        length: Duration::from_secs(60 * options.minutes),
        seed,
        mode: "nat",
        every: Duration::from_secs(1) / options.rate.max(1),
    };
    let soaked = soak(&plan, |what| {
        if options.verbose {
            println!("soak: {what}");
        }
    })?;
    print(&soaked);
    if let Some(folder) = options.output.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&options.output, serde_json::to_string_pretty(&soaked)?)?;
    let grown = soaked.growth.too_much();
    if !soaked.unexplained.is_empty() || !grown.is_empty() {
        bail!(
            "seed {seed}: {} failures without a reason; grown: {grown:?}",
            soaked.unexplained.len()
        );
    }
    Ok(())
}

fn print(soaked: &Soaked) {
    println!(
        "soak: {} requests in {} s, {} failed, {} of them without a reason",
        soaked.requests,
        soaked.seconds,
        soaked.failed,
        soaked.unexplained.len()
    );
    for request in soaked.unexplained.iter().take(20) {
        println!(
            "   at {:.2} s, {:?}: {}",
            request.at, request.backend, request.error
        );
    }
    for (fault, times) in &soaked.faults {
        println!("   {times:>5} x {fault}");
    }
    let growth = &soaked.growth;
    for (what, [first, last]) in [
        ("memory in KiB", growth.memory_kib),
        ("open files", growth.files),
        ("flows", growth.flows),
    ] {
        println!("   {what}: {first} at first, {last} at last");
    }
}
