//! `steer config`.

mod change;
mod check;
mod history;
mod words;

use clap::Subcommand;

use super::error::Failure;

const EXAMPLE: &str = include_str!("../../../../deploy/steer.toml");

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Says all that is wrong with a configuration, each with its line. Changes nothing.
    Check(check::Check),
    /// Says what a configuration would change and move. Changes nothing.
    Diff(change::Diff),
    /// Puts a configuration to work, whole or not at all, as a new generation.
    Apply(change::Apply),
    /// Makes the generation on trial the one to go back to.
    Confirm(change::Confirm),
    /// Goes back to an earlier generation.
    Rollback(change::Rollback),
    /// Lists the generations that are kept.
    History(history::History),
    /// Prints what a generation says.
    Show(history::Show),
    /// Prints an example with all settings and their defaults.
    Example,
    /// Prints the JSON schema of a configuration, for editors.
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
                    serde_json::to_string_pretty(&crate::config::schema())?
                );
                Ok(())
            }
        }
    }
}
