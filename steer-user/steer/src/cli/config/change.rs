//! `steer config diff`, `apply`, `confirm` and `rollback`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use humantime_serde::re::humantime::parse_duration;
use serde::Serialize;
use steer_core::config::Document;

use super::words;
use crate::{
    api::{ApplyRequest, RollbackRequest},
    cli::{
        ask::{Target, failure},
        error::{Exit, Failure},
    },
};

fn read(file: &std::path::Path) -> Result<Document, Failure> {
    Document::read(file).map_err(|e| Failure::new(Exit::Config, e))
}

fn print(target: &Target, value: &impl Serialize, words: String) -> Result<(), Failure> {
    if target.json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{words}");
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    /// Path of the configuration; the `conf.d/*.toml` files beside it are included.
    #[arg(default_value = "/etc/steer/steer.toml")]
    file: PathBuf,
    #[command(flatten)]
    target: Target,
}

impl Diff {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let document = read(&self.file)?;
        let diff = self
            .target
            .client()?
            .diff(&document)
            .await
            .map_err(failure)?;
        print(&self.target, &diff, words::diff(&diff))
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Apply {
    /// Path of the configuration; the `conf.d/*.toml` files beside it are included.
    #[arg(default_value = "/etc/steer/steer.toml")]
    file: PathBuf,
    /// Revert unless `steer config confirm` follows within this time, like 10m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    confirm_within: Option<Duration>,
    #[command(flatten)]
    target: Target,
}

impl Apply {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = ApplyRequest {
            document: read(&self.file)?,
            confirm_within: self.confirm_within,
        };
        let answer = self
            .target
            .client()?
            .apply(&request)
            .await
            .map_err(failure)?;
        let words = words::applied(&answer.applied, Some(&answer.diff));
        print(&self.target, &answer, words)
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Confirm {
    #[command(flatten)]
    target: Target,
}

impl Confirm {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let confirmed = self.target.client()?.confirm().await.map_err(failure)?;
        let words = format!("generation {} is confirmed\n", confirmed.generation);
        print(&self.target, &confirmed, words)
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Rollback {
    /// Generation (default: revert the pending one, or else return to the previous one).
    generation: Option<u64>,
    #[command(flatten)]
    target: Target,
}

impl Rollback {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = RollbackRequest {
            generation: self.generation,
        };
        let client = self.target.client()?;
        let applied = client.rollback(&request).await.map_err(failure)?;
        print(&self.target, &applied, words::applied(&applied, None))
    }
}
