//! `cargo xtask setup`: installs the tools for building and testing, and explains each step.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::{
    run::{as_root, cargo, check, output, toolchain_dir},
    toolchain::{self, Compiler, Way},
};

const BPF_LINKER: &str = "0.13.0";

/// Programs used by the tests, and libraries linked into bpf-linker.
const PACKAGES: [&str; 10] = [
    "curl",
    "ethtool",
    "iproute2",
    "bpftool",
    "prometheus",
    "python3-venv",
    "tshark",
    "pkg-config",
    "zlib1g-dev",
    "libzstd-dev",
];

/// File from which steer-dataplane's build script learns how to build the XDP programs.
#[derive(Serialize)]
struct Environment<'a> {
    way: Way,
    rustc: &'a Path,
    cargo: &'a Path,
    linker: &'a Path,
}

/// Installs everything that is missing.
pub(crate) fn run() -> Result<()> {
    if has_apt() {
        apt_install(
            &PACKAGES,
            "network tools for the tests, libraries for bpf-linker",
        )?;
    } else {
        println!(
            "setup: no apt-get here; expecting the likes of {}",
            PACKAGES.join(" ")
        );
    }
    let compiler = toolchain::find()?;
    println!(
        "setup: BPF compiler: {} (LLVM {}), {}",
        compiler.rustc.display(),
        compiler.llvm,
        match compiler.way {
            Way::Debian => "Debian's, with core for BPF already built",
            Way::Nightly => "rustup's nightly, which builds core for BPF from source",
        },
    );
    let linker = bpf_linker(&compiler)?;
    write_environment(&compiler, &linker)?;
    mount_bpffs();
    Ok(())
}

/// Installs bpf-linker for the compiler's LLVM under `.toolchain`, unless it is there and works.
fn bpf_linker(compiler: &Compiler) -> Result<PathBuf> {
    let llvm = compiler.llvm;
    let root = toolchain_dir().join(format!("llvm-{llvm}"));
    let linker = root.join("bin/bpf-linker");
    let version = output(Command::new(&linker).arg("--version"));
    if version.is_some_and(|version| version == format!("bpf-linker {BPF_LINKER}")) {
        println!("setup: bpf-linker {BPF_LINKER} for LLVM {llvm} is installed");
        return Ok(linker);
    }
    if has_apt() {
        let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        let packages = packages.each_ref().map(String::as_str);
        apt_install(
            &packages,
            "the compiler's LLVM, which bpf-linker must share",
        )?;
    }
    println!("setup: building bpf-linker {BPF_LINKER} for LLVM {llvm} (about a minute)");
    check(
        cargo()
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--force",
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{llvm}"),
                "--root",
            ])
            .arg(&root),
    )?;
    Ok(linker)
}

/// Writes `.toolchain/env.json` if its content changes, so that nothing is rebuilt without reason.
fn write_environment(compiler: &Compiler, linker: &Path) -> Result<()> {
    let Compiler {
        way, rustc, cargo, ..
    } = compiler;
    let text = serde_json::to_string_pretty(&Environment {
        way: *way,
        rustc,
        cargo,
        linker,
    })? + "\n";
    let path = toolchain_dir().join("env.json");
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    println!(
        "setup: writing {}, for steer-dataplane's build script",
        path.display()
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Mounts the BPF file system, where steer pins its maps. Building does not need it, so failing to
/// mount it is only a warning.
fn mount_bpffs() {
    let mounted = fs::read_to_string("/proc/mounts").is_ok_and(|mounts| {
        mounts
            .lines()
            .any(|line| line.split(' ').skip(1).take(2).eq(["/sys/fs/bpf", "bpf"]))
    });
    if mounted {
        return;
    }
    println!("setup: mounting /sys/fs/bpf, where steer pins its maps");
    if let Err(reason) = check(as_root("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"])) {
        println!("setup: warning: {reason:#}; steer and its tests cannot pin maps without it");
    }
}

/// Returns whether this is Debian or a derivative.
pub(crate) fn has_apt() -> bool {
    Path::new("/usr/bin/apt-get").exists()
}

/// Returns whether apt can install a package.
fn apt_offers(package: &str) -> bool {
    output(
        Command::new("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", package]),
    )
    .is_some_and(|text| text.contains("Candidate: ") && !text.contains("Candidate: (none)"))
}

/// Installs the missing ones of these packages.
pub(crate) fn apt_install(packages: &[&str], why: &str) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt_get = || {
        let mut command = as_root("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q"]);
        command
    };
    println!("setup: apt-get install {missing:?}: {why}");
    let install = || {
        check(
            apt_get()
                .args(["install", "--no-install-recommends"])
                .args(&missing),
        )
    };
    let offered = missing.iter().all(|package| apt_offers(package));
    if offered && install().is_ok() {
        return Ok(());
    }
    // The lists are missing, or so old that the mirror no longer has their packages.
    println!("setup: apt-get update, for current lists of packages");
    check(apt_get().arg("update"))?;
    if let Some(package) = missing.iter().find(|package| !apt_offers(package)) {
        bail!("apt has no {package}: {why}");
    }
    install()
}

fn is_installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]))
        .is_some_and(|status| status == "install ok installed")
}
