//! Network namespaces that are removed when dropped.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::process::{Command, id};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Process, kill};

const PREFIX: &str = "steer-";

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// A named network namespace, removed with everything that runs in it when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace with a unique name that contains `label`, with its loopback up.
    ///
    /// Fails without root. The first call in a process also removes the namespaces left by killed
    /// test runs.
    pub fn create(label: &str) -> Result<Self> {
        // SAFETY: geteuid has no preconditions and touches no memory.
        let user = unsafe { libc::geteuid() };
        ensure!(
            user == 0,
            "network namespaces need root (effective user {user})"
        );
        SWEEP.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", id());
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        namespace.sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        Ok(namespace)
    }

    /// Returns the namespace's name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file of the namespace, for `nsenter --net=`.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs a command in the namespace to its end and returns its standard output.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let net = format!("--net={}", self.path());
        output(Command::new("nsenter").arg(net).arg("--").args(command))
    }

    /// Starts a command in the namespace, in a process group of its own.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        // The child inherits the namespace of the thread that starts it.
        self.enter(|| Process::spawn(&mut command))?
    }

    /// Works like [`Self::spawn`], and forwards the standard error.
    pub fn spawn_followed(&self, mut command: Command) -> Result<Process> {
        self.enter(|| Process::spawn_followed(&mut command))?
    }

    /// Sets a `net.` sysctl of the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("set {key} to {value}"))
    }

    /// Runs a closure on a thread in the namespace and returns its result; panics pass through.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || join(&file).map(|()| f()));
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a thread in the namespace; it fails before running `f` if it cannot enter.
    pub fn thread<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let file = self.open()?;
        Ok(thread::spawn(move || join(&file).map(|()| f())))
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("open {}", self.path()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("remove namespace {}: {error:#}", self.name);
        }
    }
}

fn join(namespace: &File) -> Result<()> {
    // SAFETY: the descriptor is open for the call, and setns changes only the calling thread.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    ensure!(result == 0, "setns: {}", io::Error::last_os_error());
    Ok(())
}

fn remove(name: &str) -> Result<()> {
    for line in output(Command::new("ip").args(["netns", "pids", name]))?.lines() {
        let pid: i32 = line
            .trim()
            .parse()
            .with_context(|| format!("process id {line}"))?;
        if u32::try_from(pid) != Ok(id()) {
            kill(pid);
        }
    }
    output(Command::new("ip").args(["netns", "del", name])).map(drop)
}

/// Removes the namespaces of test processes that no longer exist.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        let Some(owner) = owner.and_then(|(pid, _)| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !fs::exists(format!("/proc/{owner}")).unwrap_or(true) {
            // Another process may do the same concurrently.
            drop(remove(&name));
        }
    }
}

/// Runs a command to its end and returns its standard output, or its standard error as an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
