//! The load of this machine.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::BeaconError;
use crate::probe::OrcaLoadReport;

const EVERY: Duration = Duration::from_millis(250);
const LOADAVG: &str = "/proc/loadavg";
const MEMINFO: &str = "/proc/meminfo";

/// Reads the load now and then; ends when dropped.
#[derive(Debug)]
pub(super) struct Sampler {
    last: watch::Receiver<OrcaLoadReport>,
    task: JoinHandle<()>,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sampler {
    pub(super) fn start() -> Result<Self, BeaconError> {
        let (tx, last) = watch::channel(sample()?);
        let task = tokio::spawn(async move {
            loop {
                sleep(EVERY).await;
                match sample() {
                    Ok(report) => drop(tx.send_replace(report)),
                    Err(error) => tracing::warn!(%error, "load not read"),
                }
            }
        });
        Ok(Self { last, task })
    }

    pub(super) fn report(&self) -> OrcaLoadReport {
        self.last.borrow().clone()
    }
}

fn sample() -> Result<OrcaLoadReport, BeaconError> {
    let bad = |path, reason: &str| BeaconError::Load {
        path,
        reason: reason.to_owned(),
    };
    let load = cpu(&read(LOADAVG)?).ok_or_else(|| bad(LOADAVG, "no load average in it"))?;
    let cores = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let memory = memory(&read(MEMINFO)?).ok_or_else(|| bad(MEMINFO, "no MemAvailable in it"))?;
    Ok(OrcaLoadReport {
        cpu_utilization: load / cores,
        mem_utilization: memory,
        ..Default::default()
    })
}

fn read(path: &'static str) -> Result<String, BeaconError> {
    std::fs::read_to_string(path).map_err(|e| BeaconError::Load {
        path,
        reason: e.to_string(),
    })
}

fn cpu(loadavg: &str) -> Option<f64> {
    loadavg.split_whitespace().next()?.parse().ok()
}

fn memory(meminfo: &str) -> Option<f64> {
    let field = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let total = field("MemTotal:").filter(|total| *total > 0.0)?;
    Some((1.0 - field("MemAvailable:")? / total).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(cpu("0.50 0.40 0.30 1/200 4242\n"), Some(0.5));
        assert_eq!(
            memory("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"),
            Some(0.75)
        );
        assert_eq!(memory("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        assert_eq!(cpu(""), None);
        sample().unwrap().validate().unwrap();
    }
}
