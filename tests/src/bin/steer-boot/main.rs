//! Test of the packages in a Debian that boots systemd, with traffic of a site through it; run it
//! by `cargo xtask boot`.

mod events;
mod node;
mod report;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;

/// Install the node's package, steer traffic, and restart, kill, hang, reload, upgrade and remove
/// the package under load, counting failed requests.
#[derive(Parser)]
struct Options {
    /// Base system that machines are copied from.
    #[arg(long)]
    system: PathBuf,
    /// Package of the node.
    #[arg(long)]
    node: PathBuf,
    /// Package of the beacon.
    #[arg(long)]
    beacon: PathBuf,
    /// Output file for the figures.
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
