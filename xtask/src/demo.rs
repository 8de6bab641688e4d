//! `cargo xtask demo`: the main job on real traffic.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    run::{as_root, cargo, check, repository, toolchain_dir},
    setup,
};

/// What the real engine needs of Python.
const LLAMA_PACKAGES: [&str; 3] = ["xllamacpp", "gguf", "numpy"];

/// What answers chat completions in the demonstration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// A small server of ours.
    Chat,
    /// The server of llama.cpp, with a tiny model of random weights.
    Llama,
}

/// Builds the daemon and the demonstration, and runs it as root.
pub(crate) fn run(engine: Engine) -> Result<()> {
    setup::run()?;
    check(cargo().args(["build", "--release", "--locked"]).args([
        "-p",
        "steer-user",
        "-p",
        "steer-tests",
        "--bins",
    ]))?;
    let program = repository().join("target/release/steer-demo");
    let mut demo = as_root(&program.to_string_lossy());
    demo.current_dir(repository());
    if engine == Engine::Llama {
        demo.arg("--llama").arg(llama()?);
    }
    check(&mut demo)
}

/// A Python with llama.cpp's server, in an environment of its own.
fn llama() -> Result<PathBuf> {
    let environment = toolchain_dir().join("llama");
    let python = environment.join("bin/python");
    let works = Command::new(&python)
        .args(["-c", "import xllamacpp, gguf, numpy"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        println!("demo: installing llama.cpp's server under .toolchain/llama");
        check(
            Command::new("python3")
                .args(["-m", "venv"])
                .arg(&environment),
        )
        .context("the engine needs python3 with venv (Debian: python3-venv)")?;
        check(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet"])
                .args(LLAMA_PACKAGES),
        )?;
    }
    Ok(python)
}
