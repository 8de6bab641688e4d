//! `cargo xtask demo`: the main job on real traffic.

use anyhow::Result;

use crate::{
    run::{as_root, cargo, check, repository},
    setup,
};

/// Builds the daemon and the demonstration, and runs it as root.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run()?;
    check(cargo().args(["build", "--release", "--locked"]).args([
        "-p",
        "steer-user",
        "-p",
        "steer-tests",
        "--bins",
    ]))?;
    let program = repository().join("target/release/steer-demo");
    check(
        as_root(&program.to_string_lossy())
            .current_dir(repository())
            .args(arguments),
    )
}
