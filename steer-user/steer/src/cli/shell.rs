//! `steer completions` and `steer man`, generated from the command line's own description.

use std::{io, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, error::Failure};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) {
        let mut command = Cli::command();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut io::stdout());
    }
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Folder, like /usr/local/share/man/man1; created if missing.
    folder: PathBuf,
}

impl Man {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let folder = self.folder.display();
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &self.folder))
            .with_context(|| format!("{folder}: the pages cannot be written"))?;
        Ok(())
    }
}
