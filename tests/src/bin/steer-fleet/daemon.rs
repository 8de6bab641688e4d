//! The daemon, and what it and the kernel say of it.

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

/// Where it says what it counts.
const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9100);
/// All backends have to be up by then.
const LIMIT: Duration = Duration::from_secs(240);

/// `steer run`, which ends with it.
pub(crate) struct Daemon<'a> {
    process: Process,
    log: PathBuf,
    node: &'a Namespace,
    _bpffs: Bpffs,
}

impl<'a> Daemon<'a> {
    /// Starts it with so many backends for each service.
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
        // Ten thousand backends have much to tell.
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
            // Before it listens it says nothing.
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

    /// What it cost up to now.
    pub(crate) fn read(&self) -> Result<Reading> {
        let at = Instant::now();
        let process = format!("/proc/{}", self.process.pid());
        let stat = fs::read_to_string(format!("{process}/stat"))?;
        // proc(5): user and system time are the 14th and 15th, counted from behind the name.
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

/// The last word of a line, as a number.
fn value(line: &str) -> Option<f64> {
    line.rsplit(' ').next()?.parse().ok()
}

/// What it cost up to a time.
pub(crate) struct Reading {
    at: Instant,
    /// CPU time, in hundredths of a second.
    ticks: f64,
    pub(crate) memory_kib: u64,
    probes: f64,
    pub(crate) written: Written,
}

impl Reading {
    /// The part of a core that it used since an earlier one.
    pub(crate) fn core_since(&self, before: &Self) -> f64 {
        (self.ticks - before.ticks) / 100.0 / self.seconds_since(before)
    }

    /// Probes a second since an earlier one.
    pub(crate) fn probes_since(&self, before: &Self) -> f64 {
        (self.probes - before.probes) / self.seconds_since(before)
    }

    fn seconds_since(&self, before: &Self) -> f64 {
        (self.at - before.at).as_secs_f64()
    }
}

/// How often a probe's result was written within so many seconds.
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

    /// What came since an earlier page.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let pairs = self.0.iter().zip(&before.0);
        Self(
            pairs
                .map(|((end, now), (_, was))| (*end, now - was))
                .collect(),
        )
    }

    /// How often in all.
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The seconds that this share took at most, by the shares of the bucket that it falls into.
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
