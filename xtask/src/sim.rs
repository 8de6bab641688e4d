//! `cargo xtask sim`: a simulated fleet under steer and under other policies.

use anyhow::Result;

use crate::{
    run::{cargo, check},
    setup,
};

/// Builds the simulator and runs it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::run()?;
    check(
        cargo()
            .args(["run", "--release", "--locked", "-p", "steer-tests"])
            .args(["--bin", "steer-sim", "--"])
            .args(arguments),
    )
}
