//! `steer config`.

mod change;
mod check;
mod history;
mod words;

use clap::Subcommand;

use super::error::Failure;

const EXAMPLE: &str = include_str!("../../../../../deploy/steer.toml");

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Check a configuration, and print all problems with their lines. Changes nothing.
    Check(check::Check),
    /// Show what a configuration would change and move. Changes nothing.
    Diff(change::Diff),
    /// Apply a configuration as a new generation, completely or not at all.
    Apply(change::Apply),
    /// Confirm the pending generation.
    Confirm(change::Confirm),
    /// Return to an earlier generation.
    Rollback(change::Rollback),
    /// List the stored generations.
    History(history::History),
    /// Print the document of a generation.
    Show(history::Show),
    /// Print an example with all settings and their defaults.
    Example,
    /// Print the JSON schema of a configuration, for editors.
    Schema,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check(command) => command.run(),
            Self::Diff(command) => command.run(),
            Self::Apply(command) => command.run(),
            Self::Confirm(command) => command.run(),
            Self::Rollback(command) => command.run(),
            Self::History(command) => command.run(),
            Self::Show(command) => command.run(),
            Self::Example => {
                print!("{EXAMPLE}");
                Ok(())
            }
            Self::Schema => {
                println!(
                    "{}",
                    serde_json::to_string_pretty(&steer_core::config::schema())?
                );
                Ok(())
            }
        }
    }
}
