//! `cargo xtask bench`: measures the cost of the data path per packet.

use anyhow::Result;

use crate::{
    run::{as_root, cargo, check, repository},
    setup,
};

/// Builds the benchmark with optimisation, and runs it as root.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run()?;
    check(cargo().args(["build", "--release", "--locked"]).args([
        "-p",
        "steer-tests",
        "--bin",
        "steer-bench",
    ]))?;
    let program = repository().join("target/release/steer-bench");
    check(
        as_root(&program.to_string_lossy())
            .current_dir(repository())
            .args(arguments),
    )
}
