//! `steer config history` and `show`.

use std::path::{Path, PathBuf};

use clap::Args;
use steer_core::generations::{Generation, Store};

use super::words;
use crate::cli::{
    ask::{Target, failure},
    error::Failure,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct History {
    /// Read this state directory instead of asking the daemon.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl History {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let history = match &self.state {
            Some(state) => open(state)?.history()?,
            None => self.target.client()?.history().await.map_err(failure)?,
        };
        if self.target.json {
            println!("{}", serde_json::to_string_pretty(&history)?);
        } else {
            print!("{}", words::history(&history));
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    /// Generation (default: the one in use).
    generation: Option<u64>,
    /// Read this state directory instead of asking the daemon.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

impl Show {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self) -> Result<(), Failure> {
        let generation = match &self.state {
            Some(state) => stored(state, self.generation)?,
            None => {
                let client = self.target.client()?;
                client.generation(self.generation).await.map_err(failure)?
            }
        };
        if self.target.json {
            println!("{}", serde_json::to_string_pretty(&generation)?);
        } else {
            print!("{}", words::generation(&generation));
        }
        Ok(())
    }
}

fn open(state: &Path) -> Result<Store, Failure> {
    Ok(Store::open(state, usize::MAX)?)
}

fn stored(state: &Path, number: Option<u64>) -> Result<Generation, Failure> {
    let store = open(state)?;
    let current = store
        .active()
        .map(steer_core::generations::ActiveGeneration::current);
    let number = number.or(current);
    let number = number.ok_or_else(|| {
        let folder = state.display();
        anyhow::anyhow!(
            "{folder}: no generation is in use here; is it the daemon's state directory?"
        )
    })?;
    Ok(store.generation(number)?)
}
