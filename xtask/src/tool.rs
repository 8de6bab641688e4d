//! Programs of other projects used by tasks, built under `.toolchain`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::run::{cargo, check, output, toolchain_dir};

/// A program installed by Cargo.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

impl Tool {
    /// Installs the program if missing, and returns its path. It has little to do, so it is built
    /// for a short build time.
    pub(crate) fn install(&self) -> Result<PathBuf> {
        let Self { name, version } = self;
        let root = toolchain_dir();
        let program = root.join("bin").join(name);
        let installed = output(Command::new(&program).arg("--version"));
        // Some print their name before it.
        if installed.is_some_and(|said| said.split(' ').next_back() == Some(version)) {
            return Ok(program);
        }
        println!("setup: building {name} {version} (a few minutes, once)");
        check(
            cargo()
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
                .args(["install", name, "--version", version])
                .args(["--locked", "--force", "--no-default-features", "--root"])
                .arg(root),
        )?;
        Ok(program)
    }
}
