//! `cargo xtask boot`: tests the Debian packages in a booted system.

use std::{fs, path::PathBuf};

use anyhow::Result;

use crate::{
    dist,
    run::{as_root, cargo, check, repository, toolchain_dir},
    setup::{self, apt_install},
};

/// Additional packages of the machine.
const INCLUDED: &str = "--include=systemd,systemd-sysv,dbus,iproute2";

/// Builds the packages and tests them.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let profile = "release";
    apt_install(
        &["debootstrap", "systemd-container"],
        "a Debian that boots, to try packages in",
    )?;
    check(
        cargo()
            .args(["build", "--profile", profile, "--locked"])
            .args(dist::PACKAGES)
            .args(["-p", "steer-tests", "--bins"]),
    )?;
    let [node, beacon] = dist::pack(profile)?;
    check(
        as_root(&dist::built(profile).join("steer-boot").to_string_lossy())
            .arg("--system")
            .arg(system()?)
            .arg("--node")
            .arg(node)
            .arg("--beacon")
            .arg(beacon)
            .arg("--output")
            .arg(repository().join("target/boot/latest.json")),
    )
}

/// Returns the base system that machines are copied from, which is created once.
fn system() -> Result<PathBuf> {
    let folder = toolchain_dir().join("debian-12");
    if folder.exists() {
        return Ok(folder);
    }
    println!("boot: making a Debian 12 under .toolchain (about a minute, once)");
    let part = toolchain_dir().join("debian-12.part");
    if part.exists() {
        check(as_root("rm").arg("-rf").arg(&part))?;
    }
    check(
        as_root("debootstrap")
            .args(["--variant=minbase", INCLUDED, "bookworm"])
            .arg(&part),
    )?;
    fs::rename(&part, &folder)?;
    Ok(folder)
}
