//! `cargo xtask chaos` and `cargo xtask soak`: deaths under load in network namespaces.

use anyhow::Result;

use crate::{
    dist,
    run::{as_root, cargo, check, repository},
    setup,
};

/// Builds the daemon and a program of the tests optimised, and runs it as root.
pub(crate) fn run(program: &str, arguments: &[String]) -> Result<()> {
    setup::run()?;
    check(
        cargo()
            .args(["build", "--release", "--locked"])
            .args(dist::PACKAGES)
            .args(["-p", "steer-tests", "--bins"]),
    )?;
    let program = repository().join("target/release").join(program);
    check(
        as_root(&program.to_string_lossy())
            .current_dir(repository())
            .args(arguments),
    )
}
