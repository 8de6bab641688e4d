//! `cargo xtask programs`: builds the programs used by tests.

use std::fs;

use anyhow::{Context, Result};

use crate::{
    run::{as_root, cargo, check, repository},
    setup,
};

/// Builds the programs. `steer-next` is `steer` with another version of the maps, for upgrade
/// tests.
pub(crate) fn run() -> Result<()> {
    // Of the whole workspace, so that it shares its dependencies with all other builds.
    let next = [
        "--workspace",
        "--bin",
        "steer",
        "--features",
        "steer-dataplane/next-abi",
    ];
    check(cargo().args(["build", "--locked"]).args(next))?;
    let folder = repository().join("target/debug");
    let (built, kept) = (folder.join("steer"), folder.join("steer-next"));
    // Written to a new file, because the previous one may be running.
    if kept.exists() {
        fs::remove_file(&kept).with_context(|| format!("{}", kept.display()))?;
    }
    fs::copy(&built, &kept).with_context(|| format!("{}", built.display()))?;
    check(cargo().args(["build", "--locked", "--workspace"]))
}

/// Measures the cost of changes under load.
pub(crate) fn changes() -> Result<()> {
    setup::run()?;
    run()?;
    let program = repository().join("target/debug/steer-changes");
    check(&mut as_root(&program.to_string_lossy()))
}
