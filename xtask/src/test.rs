//! `cargo xtask test`: all checks of a change, cheapest first.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{
    language, llama, programs, python,
    run::{as_root_env, cargo, check, is_root, output, repository},
    setup,
    tool::Tool,
};

const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
};

/// A step with its name.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 16] = [
    ("format", format),
    ("format of steer-ebpf", format_ebpf),
    ("language", language::run),
    ("clippy", clippy),
    ("documentation", documentation),
    ("cargo-deny", install_cargo_deny),
    ("dependencies", dependencies),
    ("dependencies of steer-ebpf", dependencies_ebpf),
    ("dependencies without BPF", dependencies_without_bpf),
    ("fuzz targets", fuzz_targets),
    ("engine", engine),
    ("another QUIC", quic),
    ("programs", programs::run),
    ("tests", tests),
    ("units", units),
    ("manifests", manifests),
];

/// Runs all steps up to the first failure.
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
    )?;
    // As QUIC servers use it.
    check(
        cargo()
            .args(["clippy", "--locked", "--package", "steer-probe", "--lib"])
            .args(["--no-default-features", "--", "-D", "warnings"]),
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

fn install_cargo_deny() -> Result<()> {
    CARGO_DENY.install().map(drop)
}

fn dependencies() -> Result<()> {
    deny("Cargo.toml")
}

fn dependencies_ebpf() -> Result<()> {
    deny("steer-ebpf/Cargo.toml")
}

/// Manifests of what builds without the BPF tool chain: the beacon, the core, and the fuzz targets.
const WITHOUT_BPF: [&str; 3] = [
    "steer-user/probe/Cargo.toml",
    "steer-user/core/Cargo.toml",
    "fuzz/Cargo.toml",
];
/// Crates that these do not need: the data path, and the API.
const ONLY_IN_NODE: [&str; 5] = ["aya", "axum", "ratatui", "steer-dataplane", "steer"];

fn dependencies_without_bpf() -> Result<()> {
    for manifest in WITHOUT_BPF {
        let mut tree = cargo();
        tree.args(["tree", "--locked", "--manifest-path"])
            .arg(repository().join(manifest))
            .args(["--edges", "normal,build", "--prefix", "none"]);
        let tree = output(&mut tree).context("`cargo tree` failed")?;
        for line in tree.lines() {
            let name = line.split(' ').next().unwrap_or_default();
            ensure!(
                !ONLY_IN_NODE.contains(&name),
                "{manifest} depends on {name}; see the layout in ARCHITECTURE.md"
            );
        }
    }
    Ok(())
}

/// Checks the fuzz targets, which are not part of the workspace.
fn fuzz_targets() -> Result<()> {
    check(
        cargo()
            .args(["check", "--locked", "--manifest-path"])
            .arg(repository().join("fuzz/Cargo.toml")),
    )
}

fn deny(manifest: &str) -> Result<()> {
    let root = repository();
    check(
        Command::new(CARGO_DENY.install()?)
            .current_dir(&root)
            .arg("--manifest-path")
            .arg(root.join(manifest))
            .args(["--locked", "--config"])
            .arg(root.join("deny.toml"))
            .args(["check", "bans", "licenses", "sources"]),
    )
}

/// Installs the real engine used by tests.
fn engine() -> Result<()> {
    llama::python().map(drop)
}

/// Installs another QUIC implementation, which serves as a server in tests.
fn quic() -> Result<()> {
    python::environment("quic", "aioquic", &["aioquic==1.7.0"]).map(drop)
}

/// Runs the tests as root: they create network namespaces and load programs. Cargo itself runs as
/// the user, so that root owns nothing under `target`.
fn tests() -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--locked", "--workspace"]);
    if !is_root() {
        command.args(["--config", as_root_env()]);
    }
    check(&mut command)
}

/// Upper bound of a unit's exposure by `systemd-analyze security`, in tenths.
const EXPOSURE: u32 = 30;

/// Checks the systemd units.
fn units() -> Result<()> {
    for unit in ["steer", "steer-beacon"] {
        check(
            Command::new("systemd-analyze")
                .args(["security", "--offline=true", "--no-pager"])
                .arg(format!("--threshold={EXPOSURE}"))
                .arg(repository().join(format!("deploy/systemd/{unit}.service")))
                .stdout(Stdio::null()),
        )?;
    }
    Ok(())
}

/// Checks the manifests against the schemas of Kubernetes.
fn manifests() -> Result<()> {
    let python = python::environment(
        "kubernetes",
        "kubernetes_validate, yaml",
        &["kubernetes-validate==1.37.0", "pyyaml"],
    )?;
    check(
        Command::new(python.with_file_name("kubernetes-validate"))
            .arg("--strict")
            .arg(repository().join("deploy/kubernetes/node.yaml")),
    )
}
