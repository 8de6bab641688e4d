//! `cargo xtask fuzz`: random packets and tables through the program and the host's build of it.

use anyhow::Result;

use crate::{
    run::{as_root_env, cargo, check, is_root},
    setup,
};

/// Builds the packet tests optimised and runs the random one, as root.
pub(crate) fn run(packets: u64, seed: Option<u64>) -> Result<()> {
    setup::run()?;
    let mut command = cargo();
    command
        .args(["test", "--release", "--locked", "--package", "steer-tests"])
        .args(["--test", "packets"]);
    if !is_root() {
        command.args(["--config", as_root_env()]);
    }
    command
        .env("STEER_FUZZ_PACKETS", packets.to_string())
        .args(["--", "random_packets_and_tables", "--nocapture"]);
    if let Some(seed) = seed {
        command.env("STEER_FUZZ_SEED", seed.to_string());
    }
    check(&mut command)
}
