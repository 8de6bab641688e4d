//! `cargo xtask dist`: builds the Debian packages of node and beacon, and files with their debug symbols.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
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

/// Shells, with what stands before and after the program's name in the file name of its completions.
const COMPLETIONS: [(&str, &str, &str); 3] = [
    ("bash", "", ".bash"),
    ("zsh", "_", ""),
    ("fish", "", ".fish"),
];

/// Cargo packages whose programs are packaged.
pub(crate) const PACKAGES: [&str; 4] = ["-p", "steer", "-p", "steer-probe"];

/// Builds the programs and packages them.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    check(
        cargo()
            .args(["build", "--release", "--locked"])
            .args(PACKAGES),
    )?;
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
    let dist = repository().join("target/dist");
    let _ = fs::remove_dir_all(&dist);
    let steer = built(profile).join("steer");
    let node = dist.join("node");
    check(Command::new(&steer).arg("man").arg(node.join("man")))?;
    complete(&steer, &["completions"], &node)?;

    let program = built(profile).join("steer-beacon");
    let beacon = dist.join("beacon");
    fs::create_dir_all(&beacon).with_context(|| format!("{}", beacon.display()))?;
    write(&program, &["--print-man"], &beacon.join("steer-beacon.1"))?;
    complete(&program, &["--print-completions"], &beacon)?;

    let packages = repository().join("target/debian");
    fs::create_dir_all(&packages).with_context(|| format!("{}", packages.display()))?;
    for program in [&steer, &program] {
        strip(program, &dist, &packages)?;
    }
    let deb = CARGO_DEB.install()?;
    let pack = |package: &str, name: &str| {
        let path = packages.join(format!("{name}.deb"));
        let done = check(
            Command::new(&deb)
                .current_dir(repository())
                .args(["--package", package, "--no-build", "--no-strip"])
                .args(["--profile", profile, "--output"])
                .arg(&path),
        );
        done.map(|()| path)
    };
    Ok([
        pack("steer", "steer")?,
        pack("steer-probe", "steer-beacon")?,
    ])
}

/// Writes the output of a program to a file.
pub(crate) fn write(program: &Path, arguments: &[&str], path: &Path) -> Result<()> {
    let out = File::create(path).with_context(|| format!("{}", path.display()))?;
    check(Command::new(program).args(arguments).stdout(out))
}

/// Writes the completions of a program for each shell.
fn complete(program: &Path, arguments: &[&str], folder: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    for (shell, before, after) in COMPLETIONS {
        let path = folder.join(format!("{before}{name}{after}"));
        write(program, &[arguments, &[shell]].concat(), &path)?;
    }
    Ok(())
}

/// Copies a program without its symbols, and writes the symbols to a file that the copy names.
fn strip(program: &Path, programs: &Path, symbols: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or_default();
    let stripped = programs.join(name);
    let debug = symbols.join(name).with_extension("debug");
    let objcopy = |arguments: &[&str], from: &Path, to: &Path| {
        check(Command::new("objcopy").args(arguments).arg(from).arg(to))
    };
    objcopy(
        &["--only-keep-debug", "--compress-debug-sections"],
        program,
        &debug,
    )?;
    let link = format!("--add-gnu-debuglink={}", debug.display());
    objcopy(&["--strip-all", &link], program, &stripped)
}
