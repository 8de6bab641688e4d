//! The tasks of the steer workspace: `cargo xtask <task>`.

mod run;
mod setup;
mod test;
mod toolchain;

use anyhow::Result;
use clap::Parser;

/// The tasks of the steer workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Install what building and testing need; safe to run again.
    Setup,
    /// Set up, then check formatting, lints, documentation and dependencies, and run the tests.
    Test,
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Setup => setup::run(),
        Task::Test => test::run(),
    }
}
