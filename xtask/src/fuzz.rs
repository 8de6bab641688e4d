//! `cargo xtask fuzz`: random packets and tables through the program and its host build, and
//! arbitrary bytes through every parser of foreign input.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    run::{as_root_env, cargo, check, is_root, repository},
    setup,
    tool::Tool,
};

const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.2",
};

/// Fuzz targets in `fuzz/`, with files of the initial corpus.
const READERS: [(&str, &[&str]); 5] = [
    ("packet", &[]),
    ("config", &["deploy/steer.toml"]),
    ("beacon", &[]),
    ("page", &["tests/engine/pages"]),
    ("cid", &[]),
];
/// Maximum length of an input in bytes.
const LONGEST: u32 = 16 << 10;

/// Runs both, each parser for a number of seconds; 0 skips a part.
pub(crate) fn run(packets: u64, seed: Option<u64>, seconds: u64) -> Result<()> {
    setup::run()?;
    if seconds > 0 {
        readers(seconds)?;
    }
    if packets > 0 {
        differential(packets, seed)?;
    }
    Ok(())
}

/// Builds the packet tests with optimisation, and runs the random one as root.
fn differential(packets: u64, seed: Option<u64>) -> Result<()> {
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

fn readers(seconds: u64) -> Result<()> {
    let fuzz = CARGO_FUZZ.install()?;
    for (target, seeds) in READERS {
        println!("fuzz: {target} for {seconds} s");
        let corpus = repository().join("fuzz/corpus").join(target);
        fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
        for seed in seeds {
            keep(&repository().join(seed), &corpus)?;
        }
        let mut command = Command::new(&fuzz);
        command
            .current_dir(repository())
            // The parsers contain no unsafe code, so a stable compiler without sanitizers is
            // enough.
            .args(["fuzz", "run", target, "--sanitizer", "none", "--"])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={LONGEST}"))
            .args(["-timeout=10", "-print_final_stats=1"]);
        check(&mut command)?;
    }
    Ok(())
}

/// Copies a file, or the files of a folder, into the initial corpus.
fn keep(seed: &Path, corpus: &Path) -> Result<()> {
    let files: Vec<PathBuf> = if seed.is_dir() {
        fs::read_dir(seed)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?
    } else {
        vec![seed.to_owned()]
    };
    for file in files {
        let name = file.file_name().context("a file without a name")?;
        fs::copy(&file, corpus.join(name)).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
