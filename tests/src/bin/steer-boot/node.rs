//! The node: a machine with steer's package.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use steer_tests::{
    fleet::{Fleet, wait},
    machine::Machine,
};

/// Timeout until the daemon steers again: it loads programs on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

pub(crate) struct Node {
    machine: Machine,
}

impl Node {
    pub(crate) fn boot(system: &Path, fleet: &Fleet) -> Result<Self> {
        let machine = Machine::boot(system, &fleet.site.node)?;
        Ok(Self { machine })
    }

    /// Runs a command in the machine. An error has the last lines of the node's log, because those of `systemctl` only
    /// refer to it.
    pub(crate) fn run(&self, command: &[&str]) -> Result<String> {
        self.machine.run(command).with_context(|| {
            let log = ["journalctl", "--unit=steer", "--lines=20", "--no-pager"];
            let log = self.machine.run(&log).unwrap_or_else(|e| e.to_string());
            format!("the node's log ends with:\n{log}")
        })
    }

    /// Installs a package of this host.
    pub(crate) fn install(&self, package: &Path) -> Result<()> {
        self.machine.put(package, "/root")?;
        let name = package.file_name().context("the path names no file")?;
        let path = format!("/root/{}", name.to_string_lossy());
        self.run(&["dpkg", "--install", &path]).map(drop)
    }

    /// Writes certificates and configuration as described in the README.
    pub(crate) fn set_up(&self, fleet: &Fleet) -> Result<()> {
        for name in ["ca.pem", "edge.pem", "edge.key"] {
            let file = fleet.path("pki").join(name);
            self.machine.put(&file, "/etc/steer/pki")?;
        }
        self.write_config(&config(&fleet.config(), fleet))
    }

    pub(crate) fn write_config(&self, text: &str) -> Result<()> {
        self.machine.write("/etc/steer/steer.toml", text)
    }

    pub(crate) fn write_file(&self, path: &str, text: &str) -> Result<()> {
        self.machine.write(path, text)
    }

    pub(crate) fn status(&self) -> Result<Value> {
        let text = self.run(&["steer", "status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Waits until a daemon other than `old` steers with all backends up.
    pub(crate) fn wait_until_steering(&self, old: &str) -> Result<()> {
        wait(LIMIT, "another daemon steers, all backends up", || {
            if self.main_pid()? == old {
                return Ok(false);
            }
            // Before it listens there is no status.
            Ok(self.status().is_ok_and(|status| {
                let backends = status["backends"].as_array();
                backends.is_some_and(|all| all.iter().all(|b| b["health"] == "up"))
            }))
        })
    }

    /// Returns the daemon's process id in the machine; "0" if there is none.
    pub(crate) fn main_pid(&self) -> Result<String> {
        let show = [
            "systemctl",
            "show",
            "steer",
            "--property=MainPID",
            "--value",
        ];
        Ok(self.run(&show)?.trim().to_owned())
    }

    /// Builds a package like `good` with a newer version, and optionally with another program.
    pub(crate) fn newer(
        &self,
        good: &Path,
        program: Option<&str>,
        fleet: &Fleet,
    ) -> Result<PathBuf> {
        let name = if program.is_some() { "other" } else { "newer" };
        let folder = fleet.path(name).display().to_string();
        let package = fleet.path(&format!("{name}.deb"));
        let host = |command: &[&str]| fleet.site.node.run(command);
        host(&["dpkg-deb", "-R", &good.display().to_string(), &folder])?;
        let control = format!("{folder}/DEBIAN/control");
        fs::write(&control, newer(&fs::read_to_string(&control)?)?)?;
        if let Some(program) = program {
            fs::write(format!("{folder}/usr/bin/steer"), program)?;
        }
        let path = package.display().to_string();
        host(&["dpkg-deb", "-b", "-Znone", &folder, &path])?;
        Ok(package)
    }
}

/// Returns a control file with an increased version.
fn newer(control: &str) -> Result<String> {
    let line = control.lines().find(|line| line.starts_with("Version: "));
    let line = line.context("the package has no version")?;
    Ok(control.replace(line, &format!("{line}+newer")))
}

/// Returns the site's configuration with the paths of packages.
pub(crate) fn config(text: &str, fleet: &Fleet) -> String {
    let place = |line: &&str| {
        let key = line.split(' ').next().unwrap_or_default();
        !["state_dir", "socket", "bpffs", "flow_seed_file"].contains(&key)
    };
    let lines: Vec<_> = text.lines().filter(place).collect();
    let pki = fleet.path("pki").display().to_string();
    lines.join("\n").replace(&pki, "/etc/steer/pki") + "\n"
}
