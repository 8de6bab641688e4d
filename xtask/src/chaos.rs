//! `cargo xtask chaos` and `cargo xtask soak`: failures under load in network namespaces.

use anyhow::Result;

use crate::{
    dist,
    run::{as_root, cargo, check, repository},
    setup,
};

/// Builds the daemon and a test program with optimisation, and runs the latter as root.
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
