//! `cargo xtask test`: everything a change has to pass, cheapest first.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{
    run::{as_root_env, cargo, check, is_root, output, repository, toolchain_dir},
    setup,
};

const CARGO_DENY: &str = "0.20.2";

/// What is run, with its name.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 8] = [
    ("format", format),
    ("format of steer-ebpf", format_ebpf),
    ("clippy", clippy),
    ("documentation", documentation),
    ("cargo-deny", install_cargo_deny),
    ("dependencies", dependencies),
    ("dependencies of steer-ebpf", dependencies_ebpf),
    ("tests", tests),
];

/// Runs every step, up to the first that fails.
pub(crate) fn run() -> Result<()> {
    step("setup", setup::run)?;
    for (name, run) in STEPS {
        step(name, run)?;
    }
    println!("test: all steps passed");
    Ok(())
}

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("test: {name}");
    run().with_context(|| format!("step failed: {name}"))
}

fn format() -> Result<()> {
    check(cargo().args(["fmt", "--all", "--check"]))
}

fn format_ebpf() -> Result<()> {
    check(
        cargo()
            .args(["fmt", "--check"])
            .current_dir(repository().join("steer-ebpf")),
    )
}

fn clippy() -> Result<()> {
    check(
        cargo()
            .args(["clippy", "--locked", "--workspace", "--all-targets"])
            .args(["--", "-D", "warnings"]),
    )
}

fn documentation() -> Result<()> {
    check(cargo().env("RUSTDOCFLAGS", "-D warnings").args([
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
    ]))
}

/// Installs cargo-deny under `.toolchain`, unless it is there. It is run once a test run and its
/// work is small, so it is built for a short build rather than for speed.
fn install_cargo_deny() -> Result<()> {
    let root = toolchain_dir();
    let installed = output(Command::new(root.join("bin/cargo-deny")).arg("--version"));
    if installed.is_some_and(|version| version == format!("cargo-deny {CARGO_DENY}")) {
        return Ok(());
    }
    println!("test: building cargo-deny {CARGO_DENY} (a few minutes, once)");
    check(
        cargo()
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .args([
                "install",
                "cargo-deny",
                "--version",
                CARGO_DENY,
                "--locked",
                "--force",
            ])
            .args(["--no-default-features", "--root"])
            .arg(root),
    )
}

fn dependencies() -> Result<()> {
    deny("Cargo.toml")
}

fn dependencies_ebpf() -> Result<()> {
    deny("steer-ebpf/Cargo.toml")
}

fn deny(manifest: &str) -> Result<()> {
    let root = repository();
    check(
        Command::new(toolchain_dir().join("bin/cargo-deny"))
            .current_dir(&root)
            .arg("--manifest-path")
            .arg(root.join(manifest))
            .args(["--locked", "--config"])
            .arg(root.join("deny.toml"))
            .args(["check", "bans", "licenses", "sources"]),
    )
}

/// Runs the tests as root: they make network namespaces and load programs. Cargo itself stays the
/// user's, so that root owns nothing under `target`.
fn tests() -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--locked", "--workspace"]);
    if !is_root() {
        command.args(["--config", as_root_env()]);
    }
    check(&mut command)
}
