//! Builds the XDP programs of `../../steer-ebpf` into `OUT_DIR/*.o`.
//!
//! The toolchain is described in `.toolchain/env.json`, written by `cargo xtask setup`.

use std::{
    env,
    ffi::OsString,
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};
use serde::Deserialize;

const TARGET: &str = "bpfel-unknown-none";
const PROGRAMS: [&str; 3] = ["steer", "decap", "bench"];

/// Compiler, Cargo and linker chosen by `cargo xtask setup`.
#[derive(Deserialize)]
struct Toolchain {
    /// Kind: "debian" has `core` for BPF prebuilt; "nightly" builds it from rust-src.
    way: String,
    rustc: PathBuf,
    cargo: PathBuf,
    linker: PathBuf,
}

fn main() {
    if let Err(reason) = run() {
        println!("cargo::error={reason}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let workspace = PathBuf::from(var("CARGO_MANIFEST_DIR")?).join("../..");
    let out = PathBuf::from(var("OUT_DIR")?);
    let ebpf = workspace.join("steer-ebpf");
    let env_json = workspace.join(".toolchain/env.json");
    for path in [
        &ebpf.join("src"),
        &ebpf.join("Cargo.toml"),
        &ebpf.join("Cargo.lock"),
        &workspace.join("steer-common/src"),
        &workspace.join("steer-common/Cargo.toml"),
        &env_json,
    ] {
        println!("cargo::rerun-if-changed={}", path.display());
    }

    let toolchain = read_toolchain(&env_json)?;
    let target_dir = out.join("ebpf");
    let keep = |program: &str, name: &str| {
        let built = target_dir.join(TARGET).join("release").join(program);
        let failed = |error: &dyn Display| format!("{}: {error}", built.display());
        let bytes = fs::read(&built).map_err(|e| failed(&e))?;
        let stripped = without_dwarf(&bytes).map_err(|e| failed(&e))?;
        fs::write(out.join(format!("{name}.o")), stripped).map_err(|e| failed(&e))
    };
    build(&toolchain, cargo(&toolchain, &ebpf, &target_dir))?;
    for program in PROGRAMS {
        keep(program, program)?;
    }
    // The tracing copy, built separately. Cargo shares what both have in common.
    let mut tracing = cargo(&toolchain, &ebpf, &target_dir);
    tracing.args(["--bin", "steer", "--features", "trace"]);
    build(&toolchain, tracing)?;
    keep("steer", "trace")
}

/// Returns an object without its DWARF, which neither the loader nor the kernel reads and which is
/// three quarters of it. Types and line numbers for the verifier's log (BTF) stay.
fn without_dwarf(bytes: &[u8]) -> Result<Vec<u8>, object::build::Error> {
    let mut object = Builder::read(bytes)?;
    for section in &mut object.sections {
        let name: &[u8] = &section.name;
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    // LLVM keeps the names of sections and of symbols in one section; the writer needs two.
    let names = object.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    object.delete_orphans();
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(stripped)
}

fn build(toolchain: &Toolchain, mut cargo: Command) -> Result<(), String> {
    let status = cargo.status().map_err(|e| {
        format!(
            "{}: {e}; run `cargo xtask setup`",
            toolchain.cargo.display()
        )
    })?;
    if !status.success() {
        return Err(format!("steer-ebpf did not build ({status})"));
    }
    Ok(())
}

fn var(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set"))
}

fn read_toolchain(path: &Path) -> Result<Toolchain, String> {
    let text = fs::read_to_string(path)
        .map_err(|e| format!("{}: {e}; run `cargo xtask setup`", path.display()))?;
    serde_json::from_str(&text)
        .map_err(|e| format!("{}: {e}; run `cargo xtask setup`", path.display()))
}

/// Returns the command that builds the programs, without the environment set by the outer Cargo.
fn cargo(toolchain: &Toolchain, ebpf: &Path, target_dir: &Path) -> Command {
    let mut command = Command::new(&toolchain.cargo);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_inherited) {
            command.env_remove(&name);
        }
    }
    let flags = [
        format!("-Clinker={}", toolchain.linker.display()),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Without it, each zeroed value becomes a call of a loop over its bytes, which the verifier
        // follows byte by byte and which Linux 6.1 counts as 32 bytes of stack.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // A program must be one function. Closures shared by several programs would become
        // functions of their own, with everything they refer to in memory, and the stack has no
        // room for that.
        "-Clink-arg=--llvm-args=-inline-threshold=100000".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
    ];
    command
        .current_dir(ebpf)
        .env("RUSTC", &toolchain.rustc)
        // The BPF target and the features used by aya-ebpf are unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir);
    if env::var_os("CARGO_FEATURE_NEXT_ABI").is_some() {
        command.args(["--features", "next-abi"]);
    }
    if toolchain.way == "nightly" {
        command.arg("-Zbuild-std=core");
    }
    command
}

/// Returns whether a variable describes the outer build (or its compiler) and would mislead the
/// inner one. Cargo's own settings, such as its home, registries and proxies, stay.
fn is_inherited(name: &str) -> bool {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let cargos = name == "CARGO" || name.starts_with("CARGO_");
    (cargos && !KEPT.iter().any(|kept| name.starts_with(kept)))
        || name.starts_with("RUSTC")
        || name.starts_with("RUSTDOC")
        || name.starts_with("DEP_")
        || matches!(
            name,
            "RUSTFLAGS" | "RUSTUP_TOOLCHAIN" | "LD_LIBRARY_PATH" | "CLIPPY_ARGS"
        )
}
