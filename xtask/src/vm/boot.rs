//! A virtual machine, from start to end.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::kernel::Kernel;

/// Timeout of a machine. Alone on its host it takes minutes at most.
const LIMIT: Duration = Duration::from_secs(1200);
/// Number of boots of a kernel that crashes at once.
const BOOTS: usize = 3;
/// Number of pairs of joined network devices.
const PAIRS: usize = 2;

/// Result of one step in the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) step: String,
    pub(super) ok: bool,
    pub(super) text: String,
    /// Instructions processed by the verifier, and bytes of machine code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) program: Option<[u32; 2]>,
}

/// Boots a kernel with parameters for the guest, waits for it to power off, and returns its
/// results.
///
/// A kernel that crashes before its first process runs is booted again, at most twice: emulated
/// processors sometimes run code that another one just changed (a fault in `sched_clock_cpu`, two
/// seconds after the start).
pub(super) fn run(kernel: &Kernel, initrd: &Path, folder: &Path, words: &str) -> Result<Vec<Line>> {
    for _ in 1..BOOTS {
        let told = once(kernel, initrd, folder, words)?;
        if !told.is_empty() {
            return whole(told, folder);
        }
        println!("vm: the kernel fell over before its first process ran; once more");
    }
    whole(once(kernel, initrd, folder, words)?, folder)
}

/// Returns the results of a machine that ended, if they are complete.
fn whole(lines: Vec<Line>, folder: &Path) -> Result<Vec<Line>> {
    let last = lines.last().map_or("nothing", |line| &line.step);
    if last != "done" {
        bail!(
            "the machine ended early, after step {last}; see {}",
            folder.join("console.log").display()
        );
    }
    Ok(lines)
}

/// Boots the kernel once. The results are empty if it crashed before anything ran.
fn once(kernel: &Kernel, initrd: &Path, folder: &Path, words: &str) -> Result<Vec<Line>> {
    let (console, results) = (folder.join("console.log"), folder.join("results.jsonl"));
    let words = format!("console=ttyS0 panic=-1 quiet{words}");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35,accel=tcg", "-cpu", "max"])
        .args(["-smp", "2", "-m", "2048", "-nodefaults"])
        .args(["-display", "none", "-no-reboot", "-append", &words])
        .arg("-kernel")
        .arg(kernel.image()?)
        .arg("-initrd")
        .arg(initrd);
    for file in [&console, &results] {
        // Results of an earlier run must not be mistaken for this one.
        if file.exists() {
            fs::remove_file(file)?;
        }
        qemu.arg("-serial").arg(format!("file:{}", file.display()));
    }
    for device in 0..2 * PAIRS {
        let hub = device / 2;
        qemu.arg("-netdev")
            .arg(format!("hubport,id=n{device},hubid={hub}"))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=n{device},romfile="));
    }
    let child = qemu.stdin(Stdio::null()).spawn();
    let mut machine = Machine(child.context("cannot run qemu-system-x86_64")?);
    let ended = machine.wait(LIMIT)?;
    let told = fs::read_to_string(&results).unwrap_or_default();
    let lines: Vec<Line> = told
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if !ended {
        let last = lines.last().map_or("nothing", |line| &line.step);
        let limit = LIMIT.as_secs();
        bail!("the machine did not end within {limit} s; its last step was {last}");
    }
    Ok(lines)
}

/// A running machine, which is stopped when dropped.
struct Machine(Child);

impl Machine {
    /// Returns whether it ended by itself in time.
    fn wait(&mut self, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.0.try_wait()?.is_some() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(false)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
