//! `cargo xtask dist`: builds the Debian packages of node and beacon.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    run::{cargo, check, repository},
    setup,
    tool::Tool,
};

const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
};

/// Paths of completions in packages, by shell.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "steer.bash"),
    ("zsh", "_steer"),
    ("fish", "steer.fish"),
];

/// Builds the daemon and packages it.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    check(cargo().args(["build", "--release", "--locked", "-p", "steer-user"]))?;
    for package in pack("release")? {
        println!("dist: {}", package.display());
    }
    Ok(())
}

/// Returns the folder of programs built with a profile.
pub(crate) fn built(profile: &str) -> PathBuf {
    let folder = if profile == "dev" { "debug" } else { profile };
    repository().join("target").join(folder)
}

/// Packages the programs built with a profile: node first, then beacon.
pub(crate) fn pack(profile: &str) -> Result<[PathBuf; 2]> {
    let deb = CARGO_DEB.install()?;
    let target = repository().join("target");
    let steer = built(profile).join("steer");
    let dist = target.join("dist");
    let _ = fs::remove_dir_all(&dist);
    check(Command::new(&steer).arg("man").arg(dist.join("man")))?;
    for (shell, file) in COMPLETIONS {
        let path = dist.join(file);
        let out = File::create(&path).with_context(|| format!("{}", path.display()))?;
        check(
            Command::new(&steer)
                .args(["completions", shell])
                .stdout(out),
        )?;
    }
    let out = target.join("debian");
    let pack = |name: &str, variant: &[&str]| {
        let package = out.join(format!("{name}.deb"));
        let done = check(
            Command::new(&deb)
                .current_dir(repository())
                .args(["--package", "steer-user", "--no-build", "--no-strip"])
                .args(["--profile", profile, "--output"])
                .arg(&package)
                .args(variant),
        );
        done.map(|()| package)
    };
    Ok([
        pack("steer", &[])?,
        pack("steer-beacon", &["--variant", "beacon"])?,
    ])
}
