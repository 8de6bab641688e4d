//! Search for a compiler with BPF support: Debian's, or a rustup nightly.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, anyhow, bail};
use serde::Serialize;

use crate::{
    run::{check, output},
    setup::{apt_install, has_apt},
};

/// Debian's compiler, Cargo, and `core` built for BPF.
const DEBIAN_PACKAGES: [&str; 4] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "libstd-rust-web-dev-bpf",
];

/// A compiler and Cargo that can build for BPF.
pub(crate) struct Compiler {
    pub(crate) way: Way,
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    /// Major version of the compiler's LLVM, which bpf-linker must share.
    pub(crate) llvm: u32,
}

/// Source of the compiler.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// Debian packages, with `core` for BPF prebuilt.
    Debian,
    /// rustup's nightly, which builds `core` from rust-src.
    Nightly,
}

/// Finds a compiler, and installs it if necessary. Debian's comes first: it needs no `-Zbuild-std`,
/// and Debian packages the same LLVM for bpf-linker.
pub(crate) fn find() -> Result<Compiler> {
    let debian = match debian() {
        Ok(compiler) => return Ok(compiler),
        Err(reason) => reason,
    };
    println!("setup: no BPF compiler from Debian ({debian:#}); trying rustup's nightly");
    nightly().map_err(|nightly| {
        anyhow!(
            "no compiler can build for BPF. Either one will do:\n  \
             Debian packages {}: {debian:#}\n  \
             rustup's nightly with rust-src: {nightly:#}",
            DEBIAN_PACKAGES.join(" "),
        )
    })
}

fn debian() -> Result<Compiler> {
    let rustc = PathBuf::from("/usr/bin/rustc");
    let cargo = PathBuf::from("/usr/bin/cargo");
    if !(has_bpf_core(&rustc) && cargo.exists()) {
        if !has_apt() {
            bail!(
                "{} has no core for BPF, and there is no apt-get",
                rustc.display()
            );
        }
        apt_install(&DEBIAN_PACKAGES, "a Rust compiler with core for BPF")?;
        if !has_bpf_core(&rustc) {
            bail!(
                "{} has no core for BPF, though the packages are there",
                rustc.display()
            );
        }
    }
    let llvm = llvm_major(&rustc)?;
    Ok(Compiler {
        way: Way::Debian,
        rustc,
        cargo,
        llvm,
    })
}

/// Returns whether the compiler comes with `core` for BPF.
fn has_bpf_core(rustc: &Path) -> bool {
    let target = ["--print", "target-libdir", "--target", "bpfel-unknown-none"];
    output(Command::new(rustc).args(target))
        .and_then(|dir| fs::read_dir(dir).ok())
        .is_some_and(|entries| {
            entries.flatten().any(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libcore-") && name.ends_with(".rlib")
            })
        })
}

fn nightly() -> Result<Compiler> {
    let which = |tool: &str| {
        output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool]))
            .map(PathBuf::from)
            .ok_or_else(|| anyhow!("`rustup which --toolchain nightly {tool}` finds none"))
    };
    let (rustc, cargo) = (which("rustc")?, which("cargo")?);
    let source = output(Command::new(&rustc).args(["--print", "sysroot"]))
        .map(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core"));
    if !source.is_some_and(|source| source.exists()) {
        println!("setup: adding rust-src to nightly, to build core for BPF");
        check(Command::new("rustup").args([
            "component",
            "add",
            "rust-src",
            "--toolchain",
            "nightly",
        ]))?;
    }
    let llvm = llvm_major(&rustc)?;
    Ok(Compiler {
        way: Way::Nightly,
        rustc,
        cargo,
        llvm,
    })
}

fn llvm_major(rustc: &Path) -> Result<u32> {
    output(Command::new(rustc).arg("-vV"))
        .and_then(|text| {
            let version = text
                .lines()
                .find_map(|line| line.strip_prefix("LLVM version: "))?;
            version.split('.').next()?.parse().ok()
        })
        .ok_or_else(|| anyhow!("`{} -vV` names no LLVM version", rustc.display()))
}
