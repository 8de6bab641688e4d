//! A Debian that boots its own systemd, in a network namespace of the test, for tests of packages
//! and units.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    bpffs::Bpffs,
    fleet::wait,
    netns::{Namespace, output},
    process::{Process, kill},
};

/// Capabilities for units of the machine, besides those that nspawn grants.
const CAPABILITIES: &str = "CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN,CAP_SYS_ADMIN";

/// Timeout of a boot on a busy host.
const BOOT: Duration = Duration::from_secs(120);

/// The running machine, switched off and removed when dropped.
#[derive(Debug)]
pub struct Machine {
    nspawn: Process,
    /// Process id of the machine's first process on this host.
    first: u32,
    // After the processes that use it.
    bpffs: Bpffs,
    folder: TempDir,
}

impl Machine {
    /// Boots a copy of the system in `base` in a namespace, and waits until it is up.
    ///
    /// # Errors
    ///
    /// Returns an error without root or systemd-nspawn, or if it does not boot.
    pub fn boot(base: &Path, namespace: &Namespace) -> Result<Self> {
        let folder = TempDir::with_prefix("steer-machine-")?;
        let root = folder.path().join("root");
        output(
            Command::new("cp")
                .args(["--archive", "--reflink=auto"])
                .arg(base)
                .arg(&root),
        )?;
        let bpffs = Bpffs::mount()?;
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn
            .arg("--boot")
            .arg("--directory")
            .arg(&root)
            .arg(format!("--network-namespace-path={}", namespace.path()))
            .args(["--register=no", "--keep-unit", "--console=read-only"])
            .arg(format!("--capability={CAPABILITIES}"))
            .arg("--system-call-filter=bpf")
            .arg(format!("--bind={}:/sys/fs/bpf", bpffs.path().display()))
            .stderr(fs::File::create(folder.path().join("nspawn.log"))?);
        let nspawn = Process::spawn_quiet(&mut nspawn, &folder.path().join("console.log"))?;
        let mut first = None;
        wait(Duration::from_secs(30), "the machine has a process", || {
            if !nspawn.is_running() {
                let log = fs::read_to_string(folder.path().join("nspawn.log"))?;
                bail!("systemd-nspawn has ended: {log}");
            }
            first = child(nspawn.pid())?;
            Ok(first.is_some())
        })?;
        let first = first.context("the machine has no process")?;
        let mut machine = Self {
            nspawn,
            first,
            bpffs,
            folder,
        };
        let up = wait(BOOT, "the machine is up", || {
            // nspawn's first child may be one that only prepares the machine.
            if let Some(first) = child(machine.nspawn.pid())? {
                machine.first = first;
            }
            // Before systemd listens there is no answer; the failure of a later command shows the
            // reason.
            let state = machine.run(&["systemctl", "is-system-running"]);
            Ok(state.is_ok_and(|state| state.trim() == "running"))
        });
        up.with_context(|| {
            let failed = machine.run(&["systemctl", "--failed", "--no-legend"]);
            let jobs = machine.run(&["systemctl", "list-jobs"]);
            format!("units that failed: {failed:?}; jobs: {jobs:?}")
        })?;
        Ok(machine)
    }

    /// Returns the path of the machine's root on this host.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Returns the path of the machine's BPF file system on this host.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// Runs a command in the machine to its end and returns its standard output.
    ///
    /// # Errors
    ///
    /// Returns the command's standard error if it fails.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        output(
            Command::new("nsenter")
                .args(["--target", &self.first.to_string(), "--all", "--"])
                .args(command),
        )
    }

    /// Writes a file in the machine, by its path there.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.root().join(path.trim_start_matches('/'));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("{}", path.display()))
    }

    /// Copies a file of this host into a folder of the machine.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be copied.
    pub fn put(&self, file: &Path, folder: &str) -> Result<()> {
        let name = file.file_name().context("the path names no file")?;
        let to = self.root().join(folder.trim_start_matches('/'));
        fs::create_dir_all(&to)?;
        fs::copy(file, to.join(name)).with_context(|| format!("copy {}", file.display()))?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.nspawn.is_running() {
            kill(i32::try_from(self.first).unwrap_or(i32::MAX));
        }
        self.nspawn.kill();
    }
}

/// Returns the first child of a process, if it has one.
fn child(pid: u32) -> Result<Option<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    Ok(text
        .split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok()))
}
