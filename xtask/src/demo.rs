//! `cargo xtask demo`: the main task on real traffic.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    dist, llama,
    run::{as_root, cargo, check, repository},
    setup,
};

/// Server of chat completions in the demonstration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Our small test server.
    Chat,
    /// The server of llama.cpp, with a tiny model of random weights.
    Llama,
}

/// Builds the daemon and the demonstration, and runs it as root.
pub(crate) fn run(engine: Engine) -> Result<()> {
    setup::run()?;
    check(
        cargo()
            .args(["build", "--release", "--locked"])
            .args(dist::PACKAGES)
            .args(["-p", "steer-tests", "--bins"]),
    )?;
    let program = repository().join("target/release/steer-demo");
    let mut demo = as_root(&program.to_string_lossy());
    demo.current_dir(repository());
    if engine == Engine::Llama {
        demo.arg("--llama").arg(llama::python()?);
    }
    check(&mut demo)
}
