//! `steer config check`.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::error::{Exit, Failure},
    config::{ConfigError, Document},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// The configuration; `conf.d/*.toml` beside it belong to it.
    #[arg(default_value = "/etc/steer/steer.toml")]
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let document = Document::read(&self.file);
        let files = document.as_ref().map_or(0, |document| document.files.len());
        let checked = document.and_then(|document| document.config());
        if self.json {
            println!("{}", json(&self.file, checked.as_ref().err()));
        }
        let config = checked.map_err(|e| Failure::new(Exit::Config, e))?;
        if self.json {
            return Ok(());
        }
        let from = match files {
            1 => String::new(),
            files => format!(" in {files} files"),
        };
        println!(
            "{}: good: {} services, {} pools, {} backends{from}",
            self.file.display(),
            config.services.len(),
            config.pools.len(),
            config.backends.len()
        );
        Ok(())
    }
}

fn json(file: &std::path::Path, error: Option<&ConfigError>) -> serde_json::Value {
    let problems: Vec<String> = error.map_or_else(Vec::new, |error| {
        error.to_string().lines().map(str::to_owned).collect()
    });
    serde_json::json!({ "file": file, "good": error.is_none(), "problems": problems })
}
