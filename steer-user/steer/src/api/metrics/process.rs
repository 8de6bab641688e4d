//! Process metrics of the daemon, with the names of Prometheus' own clients.

use std::{fmt, fs};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::writer::{Writer, family};

#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Writer(encoder);
        // Values that the system does not provide are omitted.
        if let Some(cpu) = cpu_seconds() {
            let help = "Total user and system CPU time.";
            page.counter(family("process_cpu", help).seconds(), cpu)?;
        }
        if let Some(resident) = resident() {
            let help = "Resident memory, including mapped maps.";
            page.gauge(family("process_resident_memory", help).bytes(), resident)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let help = "Open file descriptors.";
            page.gauge(family("process_open_fds", help), open.count() as f64)?;
        }
        Ok(())
    }
}

fn constant(variable: SysconfVar) -> Option<f64> {
    sysconf(variable).ok().flatten().map(|value| value as f64)
}

/// Returns fields 14 and 15 of proc_pid_stat(5) in seconds.
fn cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / constant(SysconfVar::CLK_TCK)?)
}

/// Returns the second field of proc_pid_statm(5) in bytes.
fn resident() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * constant(SysconfVar::PAGE_SIZE)?)
}
