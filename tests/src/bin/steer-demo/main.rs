//! The main task on real traffic; run it by `cargo xtask demo`.

mod interrupt;
mod phases;
mod report;
mod traffic;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;

/// Steer streamed chat completions to the nearest of three backends, kill the nearest one, bring it
/// back, and kill the daemon under load.
#[derive(Parser)]
struct Options {
    /// Output file for the figures.
    #[arg(long, default_value = "target/demo/latest.json")]
    output: PathBuf,
    /// Python with xllamacpp, gguf and numpy, to use llama.cpp's server for the backends.
    #[arg(long)]
    llama: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    interrupt::listen()?;
    let figures = phases::run(options.llama.clone())?;
    report::print(&figures);
    report::write(&figures, &options.output)?;
    Ok(figures.expectations.iter().all(|held| held.held))
}
