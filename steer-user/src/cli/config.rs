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
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self::Check { file, json } = self;
        let checked = config::Config::load(&file);
        if json {
            let problems: Vec<String> = match &checked {
                Ok(_) => Vec::new(),
                Err(error) => error.to_string().lines().map(str::to_owned).collect(),
            };
            println!(
                "{}",
                serde_json::json!({ "file": file, "good": checked.is_ok(), "problems": problems })
            );
        }
        let config = checked.map_err(|e| Failure::new(Exit::Config, e))?;
        if json {
            return Ok(());
        }
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
