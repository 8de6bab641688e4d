//! `steer completions` and `steer man`: what is made of the command line's own description.

use std::{io, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, error::Failure};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell.
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
    /// The folder, like /usr/local/share/man/man1; it is made if it is not there.
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
