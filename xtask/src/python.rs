//! Python environments of their own under `.toolchain`.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::run::{check, toolchain_dir};

/// Returns the Python of an environment that can import these modules; installs the packages if it
/// cannot.
pub(crate) fn environment(name: &str, modules: &str, packages: &[&str]) -> Result<PathBuf> {
    let environment = toolchain_dir().join(name);
    let python = environment.join("bin/python");
    let works = Command::new(&python)
        .args(["-c", &format!("import {modules}")])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        println!("setup: installing {packages:?} under .toolchain/{name}");
        check(
            Command::new("python3")
                .args(["-m", "venv"])
                .arg(&environment),
        )
        .context("this needs python3 with venv (Debian: python3-venv)")?;
        check(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet"])
                .args(packages),
        )?;
    }
    Ok(python)
}
