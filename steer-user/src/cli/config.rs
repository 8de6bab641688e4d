//! `steer config`.

use std::path::PathBuf;

use clap::Subcommand;

use super::error::{Exit, Failure};
use crate::config;

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Says all that is wrong with a configuration, each with its line. Changes nothing.
    Check {
        /// The configuration.
        #[arg(default_value = "/etc/steer/steer.toml")]
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self::Check { file } = self;
        let config = config::Config::load(&file).map_err(|e| Failure::new(Exit::Config, e))?;
        println!(
            "{}: good: {} services, {} pools, {} backends",
            file.display(),
            config.services.len(),
            config.pools.len(),
            config.backends.len()
        );
        Ok(())
    }
}
