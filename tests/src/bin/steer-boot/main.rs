//! The packages in a Debian that boots systemd, with traffic of a site through it; run it by
//! `cargo xtask boot`.

mod events;
mod node;
mod report;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;

/// Installs the node's package, steers, and restarts, kills, hangs, reloads, upgrades and removes it
/// under load, counting the requests that fail.
#[derive(Parser)]
struct Options {
    /// The system that machines are copies of.
    #[arg(long)]
    system: PathBuf,
    /// The node's package.
    #[arg(long)]
    node: PathBuf,
    /// The beacon's package.
    #[arg(long)]
    beacon: PathBuf,
    /// File that the figures are written to.
    #[arg(long, default_value = "target/boot/latest.json")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("boot: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let figures = events::run(options)?;
    report::print(&figures);
    report::write(&figures, &options.output)?;
    Ok(figures.failed() == 0)
}
