//! The daemon, and measurements of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use steer_tests::{bpffs::Bpffs, fleet::binary, netns::Namespace, process::Process};

use crate::beacons::PORT;

/// Address of its metrics.
const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9100);
/// Timeout until all backends are up.
const LIMIT: Duration = Duration::from_secs(240);

/// A running `steer run`, which ends when dropped.
pub(crate) struct Daemon<'a> {
    process: Process,
    log: PathBuf,
    node: &'a Namespace,
    _bpffs: Bpffs,
}

impl<'a> Daemon<'a> {
    /// Starts it with a number of backends per service.
    pub(crate) fn start(
        node: &'a Namespace,
        folder: &Path,
        names: &[String],
        each: usize,
    ) -> Result<Self> {
        let bpffs = Bpffs::mount()?;
        let at = folder.display();
        let mut text = format!(
            "[node]\nname = \"edge\"\nregion = \"home\"\ninterfaces = [\"eth0\"]\n\
             state_dir = \"{at}/state\"\nsocket = \"{at}/steer.sock\"\nbpffs = \"{}\"\n\
             [api]\nmetrics = \"{}:{}\"\n[nat]\naddresses = [\"172.31.0.1\"]\n\
             [probe]\nca = \"{at}/ca.pem\"\ncert = \"{at}/edge.pem\"\nkey = \"{at}/edge.key\"\n",
            bpffs.path().display(),
            METRICS.0,
            METRICS.1,
        );
        for (number, name) in (1_u32..).zip(names) {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
            text += &format!(
                "[[backend]]\nname = \"{name}\"\naddress = \"{address}\"\nmode = \"nat\"\n\
                 beacon = \"{address}:{PORT}\"\n"
            );
        }
        for (number, some) in (0_u32..).zip(names.chunks(each)) {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(192, 168, 0, 1).to_bits() + number);
            text += &format!(
                "[[pool]]\nname = \"p{number}\"\nbackends = {some:?}\n\
                 [[service]]\nname = \"s{number}\"\naddress = \"{address}\"\nport = 80\n\
                 pools = [\"p{number}\"]\n"
            );
        }
        let config = folder.join("steer.toml");
        fs::write(&config, text)?;
        let mut command = Command::new(binary("steer")?);
        command.args(["run", "--config"]).arg(&config);
        // Ten thousand backends write a long log.
        let log = folder.join("daemon.log");
        command.stderr(fs::File::create(&log)?);
        let process = node.spawn(command)?;
        Ok(Self {
            process,
            log,
            node,
            _bpffs: bpffs,
        })
    }

    /// Waits until all backends are up.
    pub(crate) fn wait_until_up(&mut self, backends: usize) -> Result<()> {
        let end = Instant::now() + LIMIT;
        let mut up = 0;
        while up < backends {
            ensure!(
                self.process.is_running(),
                "the daemon has ended: {}",
                fs::read_to_string(&self.log)?
                    .lines()
                    .last()
                    .unwrap_or_default()
            );
            if Instant::now() > end {
                bail!(
                    "after {LIMIT:?} {up} of {backends} backends are up; {:?}",
                    self.page()
                        .map(|page| page.chars().take(400).collect::<String>())
                );
            }
            thread::sleep(Duration::from_millis(200));
            // Before it listens there is no page.
            let page = self.page().unwrap_or_default();
            let of_health = page
                .lines()
                .filter(|line| line.starts_with("steer_backend_health{"));
            up = of_health
                .filter(|line| line.contains("health=\"up\"") && line.ends_with(" 1.0"))
                .count();
        }
        Ok(())
    }

    fn page(&self) -> Result<String> {
        self.node.enter(|| -> Result<String> {
            let mut stream = TcpStream::connect(METRICS)?;
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: steer\r\nConnection: close\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok(page)
        })?
    }

    /// Returns its cost so far.
    pub(crate) fn read(&self) -> Result<Reading> {
        let at = Instant::now();
        let process = format!("/proc/{}", self.process.pid());
        let stat = fs::read_to_string(format!("{process}/stat"))?;
        // proc(5): user and system time are fields 14 and 15, counted from after the name.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let times = rest.split_whitespace().skip(11).take(2);
        let ticks = times.map(|t| t.parse::<f64>().unwrap_or(0.0)).sum();
        let status = fs::read_to_string(format!("{process}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|line| line.split_whitespace().next());
        let page = self.page()?;
        let probes = page
            .lines()
            .filter(|line| line.starts_with("steer_probes_total{"));
        Ok(Reading {
            at,
            ticks,
            memory_kib: memory.context("no VmRSS")?.parse()?,
            probes: probes.filter_map(value).sum(),
            written: Written::of(&page),
        })
    }
}

/// Returns the last word of a line as a number.
fn value(line: &str) -> Option<f64> {
    line.rsplit(' ').next()?.parse().ok()
}

/// Cost up to a time.
pub(crate) struct Reading {
    at: Instant,
    /// CPU time in hundredths of a second.
    ticks: f64,
    pub(crate) memory_kib: u64,
    probes: f64,
    pub(crate) written: Written,
}

impl Reading {
    /// Returns the part of a core used since an earlier reading.
    pub(crate) fn core_since(&self, before: &Self) -> f64 {
        (self.ticks - before.ticks) / 100.0 / self.seconds_since(before)
    }

    /// Returns probes per second since an earlier reading.
    pub(crate) fn probes_since(&self, before: &Self) -> f64 {
        (self.probes - before.probes) / self.seconds_since(before)
    }

    fn seconds_since(&self, before: &Self) -> f64 {
        (self.at - before.at).as_secs_f64()
    }
}

/// Histogram of the time from a probe's result until it was written, in seconds.
pub(crate) struct Written(Vec<(f64, f64)>);

impl Written {
    fn of(page: &str) -> Self {
        let bucket = |line: &str| {
            let rest = line.strip_prefix("steer_probe_to_slots_seconds_bucket{le=\"")?;
            let (end, count) = rest.split_once("\"} ")?;
            let end = if end == "+Inf" {
                f64::INFINITY
            } else {
                end.parse().ok()?
            };
            Some((end, count.split(' ').next()?.parse().ok()?))
        };
        Self(page.lines().filter_map(bucket).collect())
    }

    /// Returns the difference to an earlier page.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let pairs = self.0.iter().zip(&before.0);
        Self(
            pairs
                .map(|((end, now), (_, was))| (*end, now - was))
                .collect(),
        )
    }

    /// Returns the number of samples.
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// Returns a quantile in seconds, interpolated in its bucket.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = self.count() * share;
        let found = self
            .0
            .iter()
            .position(|(_, count)| *count >= rank && *count > 0.0)?;
        let (end, upto) = self.0[found];
        let (start, before) = match found.checked_sub(1) {
            Some(last) => self.0[last],
            None => (0.0, 0.0),
        };
        if end.is_infinite() {
            return Some(start);
        }
        Some(start + (end - start) * (rank - before) / (upto - before))
    }
}
