//! Load of this machine.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::BeaconError;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Weight of the newest sample.
const NEWEST_WEIGHT: f64 = 0.25;
const STAT: &str = "/proc/stat";
const MEMINFO: &str = "/proc/meminfo";

/// Utilization of the machine.
#[derive(Clone, Copy, Debug, Default)]
struct Machine {
    /// CPU utilization, from 0 to 1, over about a second.
    cpu: Option<f64>,
    /// Memory utilization, from 0 to 1.
    memory: Option<f64>,
}

/// Periodic sampler of the load, which ends when dropped.
#[derive(Debug)]
pub(super) struct Sampler {
    last: watch::Receiver<Machine>,
    task: JoinHandle<()>,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sampler {
    pub(super) fn start() -> Result<Self, BeaconError> {
        let mut before = times()?;
        let first = Machine {
            // The mean since boot, until there is a second sample.
            cpu: busy((0, 0), before),
            memory: Some(used()?),
        };
        let (tx, last) = watch::channel(first);
        let task = tokio::spawn(async move {
            loop {
                sleep(SAMPLE_INTERVAL).await;
                let read = times().and_then(|times| Ok((times, used()?)));
                match read {
                    Ok((times, memory)) => tx.send_modify(|machine| {
                        if let Some(busy) = busy(before, times) {
                            let old = machine.cpu.unwrap_or(busy);
                            machine.cpu = Some(old + NEWEST_WEIGHT * (busy - old));
                        }
                        machine.memory = Some(memory);
                        before = times;
                    }),
                    Err(error) => {
                        tracing::warn!(%error, "load not read");
                        tx.send_replace(Machine::default());
                    }
                }
            }
        });
        Ok(Self { last, task })
    }

    /// Returns CPU and memory utilization, from 0 to 1.
    pub(super) fn machine(&self) -> (Option<f64>, Option<f64>) {
        let last = *self.last.borrow();
        (last.cpu, last.memory)
    }
}

/// Returns the time of all CPUs since boot, and their idle time.
fn times() -> Result<(u64, u64), BeaconError> {
    cpu(&read(STAT)?).ok_or_else(|| bad(STAT, "no line of all CPUs in it"))
}

fn used() -> Result<f64, BeaconError> {
    memory(&read(MEMINFO)?).ok_or_else(|| bad(MEMINFO, "no MemAvailable in it"))
}

fn bad(path: &'static str, reason: &str) -> BeaconError {
    BeaconError::Load {
        path,
        reason: reason.to_owned(),
    }
}

fn read(path: &'static str) -> Result<String, BeaconError> {
    std::fs::read_to_string(path).map_err(|e| bad(path, &e.to_string()))
}

/// Parses proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is included in
/// user.
fn cpu(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let numbers: Option<Vec<u64>> = line
        .split_whitespace()
        .take(8)
        .map(|number| number.parse().ok())
        .collect();
    let numbers = numbers.filter(|numbers| numbers.len() >= 5)?;
    Some((numbers.iter().sum(), numbers[3] + numbers[4]))
}

/// Returns the busy share of CPU time between two samples.
fn busy(before: (u64, u64), now: (u64, u64)) -> Option<f64> {
    let all = now.0.checked_sub(before.0).filter(|all| *all > 0)?;
    // Idle time may decrease by a tick.
    let idle = now.1.saturating_sub(before.1).min(all);
    Some(1.0 - idle as f64 / all as f64)
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
        let stat = "cpu  10 1 5 100 4 0 2 0 3 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(cpu(stat), Some((122, 104)));
        assert_eq!(cpu("cpu 1 2\n"), None);
        assert_eq!(cpu(""), None);
        assert_eq!(busy((100, 80), (200, 105)), Some(0.75));
        assert_eq!(busy((100, 80), (100, 80)), None);
        assert_eq!(busy((100, 80), (200, 79)), Some(1.0));
        assert_eq!(
            memory("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"),
            Some(0.75)
        );
        assert_eq!(memory("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        times().unwrap();
        used().unwrap();
    }
}
