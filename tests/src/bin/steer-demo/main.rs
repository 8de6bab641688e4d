//! The main job on real traffic; run it by `cargo xtask demo`.

mod interrupt;
mod phases;
mod report;
mod traffic;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;

/// Steers streamed chat completions to the nearest of three backends, kills the nearest one, brings
/// it back, and kills the daemon under load.
#[derive(Parser)]
struct Options {
    /// File that the figures are written to.
    #[arg(long, default_value = "target/demo/latest.json")]
    output: PathBuf,
    /// A Python with xllamacpp, gguf and numpy: the backends are llama.cpp's server then.
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
