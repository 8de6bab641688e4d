//! The server of llama.cpp as Python's package index has it: a real engine for demonstration and tests.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::run::{check, toolchain_dir};

/// What the real engine needs of Python.
const LLAMA_PACKAGES: [&str; 3] = ["xllamacpp", "gguf", "numpy"];

/// A Python with llama.cpp's server, in an environment of its own.
pub(crate) fn python() -> Result<PathBuf> {
    let environment = toolchain_dir().join("llama");
    let python = environment.join("bin/python");
    let works = Command::new(&python)
        .args(["-c", "import xllamacpp, gguf, numpy"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        println!("setup: installing llama.cpp's server under .toolchain/llama");
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
