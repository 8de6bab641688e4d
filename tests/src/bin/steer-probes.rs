//! Cost of probing many backends: real probers and beacons over loopback, each side on a thread of
//! its own, and the CPU time of the probers' thread.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use steer_probe::{
    beacon::{Beacon, BeaconConfig},
    pki::{self, Identity, IdentityKind, Validity},
    probe::{Budget, HttpTls, Method, ProbeSettings, ProbeTarget, ProbeTls, channel, spawn},
};
use tokio::runtime::Builder;

/// Connections per beacon; it accepts 1024.
const LINKS: usize = 500;
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Parser)]
struct Arguments {
    /// Number of backends to probe.
    #[arg(long, default_value_t = 10_000)]
    backends: usize,
    /// Interval between probes of a backend in milliseconds, if the budget allows.
    #[arg(long, default_value_t = 100)]
    interval: u64,
    /// Probes per second of the node.
    #[arg(long, default_value_t = 5000.0)]
    budget: f64,
    /// Duration of the measurement in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    more_files(arguments.backends)?;
    let folder = tempfile::tempdir()?;
    pki::init(folder.path())?;
    for (kind, name) in [(IdentityKind::Node, "n1"), (IdentityKind::Beacon, "b1")] {
        let identity = Identity::new(kind, "eu", name)?;
        pki::issue(folder.path(), &identity, Validity::for_next(HOUR), &[])?;
    }
    let file = |name: &str| folder.path().join(name);
    let config = BeaconConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        ca: file("ca.pem"),
        cert: file("b1.pem"),
        key: file("b1.key"),
        backend_check: None,
        engine: None,
        drain_file: None,
        probe_budget: None,
        connections_per_node: 1024,
    };
    let beacons = beacons(config, arguments.backends.div_ceil(LINKS))?;
    let tls = ProbeTls::load(&file("ca.pem"), &file("n1.pem"), &file("n1.key"))?;
    let interval = Duration::from_millis(arguments.interval);
    let settings = ProbeSettings {
        node: "n1".to_owned(),
        budget: Budget::new(
            arguments.backends,
            interval,
            30 * Duration::from_secs(1),
            arguments.budget,
        ),
        fast_probes: 2,
        timeout: Duration::from_millis(1000),
        jitter: 0.1,
        tls: Some(Arc::new(tls)),
        web: HttpTls::new(None, None)?,
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(probe(&arguments, &beacons, &settings))
}

/// Starts beacons on a thread of their own, which ends with the process.
fn beacons(config: BeaconConfig, count: usize) -> Result<Vec<SocketAddr>> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || -> Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            for _ in 0..count {
                let beacon = Beacon::bind(&config).await?;
                tell.send(beacon.local_addr())?;
                tokio::spawn(beacon.serve(std::future::pending()));
            }
            drop(tell);
            std::future::pending().await
        })
    });
    let all: Vec<SocketAddr> = told.iter().collect();
    ensure!(all.len() == count, "not all beacons began");
    Ok(all)
}

async fn probe(
    arguments: &Arguments,
    beacons: &[SocketAddr],
    settings: &ProbeSettings,
) -> Result<()> {
    let (outbox, mut measurements) = channel(4096);
    // One beacon answers for many backends: connections are what counts.
    let before = memory()?;
    for link in 0..arguments.backends {
        let target = ProbeTarget {
            name: "b1".to_owned(),
            region: "eu".to_owned(),
            address: beacons[link % beacons.len()],
            method: Method::Beacon,
        };
        spawn(vec![target], 1, settings, &outbox);
    }
    let begun = Instant::now();
    let mut handshakes = 0;
    while handshakes < arguments.backends {
        let measurement = measurements.next().await.context("no prober")?;
        if measurement.outcome.is_ok_and(|s| s.handshake.is_some()) {
            handshakes += 1;
        }
    }
    println!(
        "{} links after {:.1} s, {:.1} s of CPU",
        arguments.backends,
        begun.elapsed().as_secs_f64(),
        cpu()?.as_secs_f64()
    );
    let (begun, used) = (Instant::now(), cpu()?);
    let window = Duration::from_secs(arguments.seconds);
    let (mut answered, mut failed) = (0_u64, HashSet::new());
    while begun.elapsed() < window {
        match measurements.next().await.context("no prober")?.outcome {
            Ok(_) => answered += 1,
            Err(failure) => drop(failed.insert(failure.to_string())),
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let used = (cpu()? - used).as_secs_f64();
    println!(
        "{:.0} probes/s answered, {:.2} of a core, {:.0} us of CPU a probe, {:.0} KiB a link with both \
         ends; failures {failed:?}",
        answered as f64 / seconds,
        used / seconds,
        used / answered as f64 * 1e6,
        (memory()?.saturating_sub(before)) as f64 / arguments.backends as f64,
    );
    Ok(())
}

/// Returns the CPU time of this thread.
fn cpu() -> Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(failed == 0, "no clock of CPU time");
    Ok(Duration::new(
        time.tv_sec.try_into()?,
        time.tv_nsec.try_into()?,
    ))
}

/// Returns the resident memory in KiB.
fn memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

/// Raises the limit of open files to the maximum, for one socket per connection.
fn more_files(links: usize) -> Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a rlimit of ours.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    ensure!(failed == 0, "no limit of open files");
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a rlimit of ours.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    // Reconnections overlap, and there are other files.
    let needed = links as u64 + 300;
    ensure!(
        failed == 0 && limit.rlim_max >= needed,
        "{} files may be open, and so many links need {needed}: raise `ulimit -Hn`",
        limit.rlim_max
    );
    Ok(())
}
