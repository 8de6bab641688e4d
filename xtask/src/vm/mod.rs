//! `cargo xtask vm`: tests the data path on the kernels of Debian's releases, in emulated machines.
//!
//! Kernels are downloaded and unpacked, never installed. A machine is qemu without hardware
//! support, a kernel, and an initramfs with the modules, the guest (`steer-guest`) and the programs
//! that it runs.

mod apt;
mod archive;
mod boot;
mod image;
mod kernel;
mod report;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::{
    run::{cargo, check, repository},
    setup,
};
use kernel::Expected;
use report::Row;

/// Packages needed on the host in addition to those of `setup`.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "xz-utils"];

/// Series of Debian kernels to boot, oldest first.
const SERIES: [(&str, Expected); 5] = [
    ("5.10", Expected::Refused),
    ("6.1", Expected::Works),
    ("6.12", Expected::Works),
    ("6.18", Expected::Works),
    ("7.3", Expected::Works),
];

/// Options of the task.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Series of kernels, such as 6.1 (default: all known ones).
    kernels: Vec<String>,
    /// Only load the programs; send no traffic.
    #[arg(long)]
    load_only: bool,
    /// Only load programs whose names contain this; implies --load-only.
    #[arg(long)]
    only: Option<String>,
    /// Build without optimisation, which builds faster and runs slower.
    #[arg(long)]
    debug: bool,
}

/// Boots each kernel, prints the results and writes `target/vm/latest.json`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut wanted = Vec::new();
    for name in &options.kernels {
        let known = SERIES.iter().find(|(series, _)| series == name);
        let names = || SERIES.map(|(series, _)| series).join(", ");
        wanted
            .push(*known.with_context(|| format!("no kernel {name} here; there are {}", names()))?);
    }
    if wanted.is_empty() {
        wanted.extend(SERIES);
    }
    setup::run()?;
    setup::apt_install(&PACKAGES, "an emulator to boot other kernels in")?;
    let guest = build(options.debug)?;
    let folder = folder();
    let apt = apt::Root::new(&folder.join("apt"))?;
    let mut rows = Vec::new();
    for (series, expected) in wanted {
        println!("vm: Linux {series}");
        let row = match one(&apt, series, &guest, options) {
            Ok(row) => row.expect(expected),
            Err(error) => Row::failed(series, &error),
        };
        rows.push(row);
    }
    report::print(&rows);
    report::write(&rows, &folder.join("latest.json"))?;
    if rows.iter().any(|row| !row.is_good()) {
        bail!(
            "not all is as it has to be; the consoles are in {}",
            folder.display()
        );
    }
    Ok(())
}

fn one(apt: &apt::Root, series: &str, guest: &image::Guest, options: &Options) -> Result<Row> {
    let folder = folder().join(series);
    let kernel = kernel::Kernel::get(apt, series, &folder)?;
    println!("vm: {}", kernel.release);
    let initrd = image::build(&kernel, guest, &folder)?;
    let mut words = String::new();
    if let Some(only) = &options.only {
        words = format!(" load-only only={only}");
    } else if options.load_only {
        words = " load-only".to_owned();
    }
    let lines = boot::run(&kernel, &initrd, &folder, &words)?;
    Ok(Row::new(series, &kernel.release, lines))
}

fn folder() -> PathBuf {
    repository().join("target/vm")
}

/// Builds the guest.
fn build(debug: bool) -> Result<image::Guest> {
    let mut command = cargo();
    command.args([
        "build",
        "--locked",
        "-p",
        "steer-tests",
        "--bin",
        "steer-guest",
    ]);
    if !debug {
        command.arg("--release");
    }
    check(&mut command)?;
    let profile = if debug { "debug" } else { "release" };
    let program = repository()
        .join("target")
        .join(profile)
        .join("steer-guest");
    image::Guest::new(&program)
}
