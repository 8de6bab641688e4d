//! Cost of the daemon with many backends: CPU and memory of `steer run` in a network namespace, and
//! the time from a probe's result until members and slots are written. Needs root; build `steer`
//! with the same profile, `--release` for figures.

mod beacons;
mod daemon;

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;
use steer_probe::pki::{self, Identity, IdentityKind, Validity};
use steer_tests::{
    netns::Namespace,
    veth::{End, Veth},
};
use tokio::runtime::Builder;

use self::{
    beacons::{Down, serve},
    daemon::{Daemon, Reading, Written},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const REGION: &str = "home";
/// Time until backends that went down and came back are settled.
const CALM: Duration = Duration::from_secs(5);

/// Run the daemon with fleets of beacons, and print its cost.
#[derive(Parser)]
struct Options {
    /// Numbers of backends, separated by commas.
    #[arg(long, default_value = "10,1000,10000", value_delimiter = ',')]
    backends: Vec<usize>,
    /// Backends per service: all tables together have room for about a million slots, a hundred for
    /// each backend.
    #[arg(long, default_value_t = 40)]
    each: usize,
    /// Duration of the measurement in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Seconds to wait before it. With many backends, reconnections start only after minutes.
    #[arg(long, default_value_t = 5)]
    after: u64,
    /// Backends per second that go down or recover.
    #[arg(long, default_value_t = 5)]
    changes: u32,
}

fn main() -> Result<()> {
    let options = Options::parse();
    println!(
        "{:>8} {:>9} {:>10} {:>13} {:>13} {:>10} {:>9} {:>19} {:>8} {:>25}",
        "backends",
        "services",
        "all up s",
        "steady, core",
        "changes, core",
        "memory MiB",
        "probes/s",
        "to slots p50/p99 ms",
        "changes",
        "a tenth down s, to slots"
    );
    for backends in &options.backends {
        measure(*backends, &options)?;
    }
    Ok(())
}

fn measure(backends: usize, options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let names: Vec<String> = (0..backends).map(|n| format!("b{n}")).collect();
    issue(folder.path(), &names)?;
    let (node, far) = site()?;
    let flags = names.iter().map(|n| (n.clone(), AtomicBool::new(false)));
    let down: Down = Arc::new(flags.collect::<HashMap<_, _>>());
    let (ready, is_ready) = channel();
    let (pki, of_beacons) = (folder.path().to_owned(), down.clone());
    // The thread ends with the process: a socket without packets costs nothing.
    drop(far.thread(move || -> Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve(&pki, of_beacons, ready))
    })?);
    is_ready.recv()?;
    let begun = Instant::now();
    let mut daemon = Daemon::start(&node, folder.path(), &names, options.each)?;
    daemon.wait_until_up(backends)?;
    let all_up = begun.elapsed();
    // Effects of the start are over.
    thread::sleep(Duration::from_secs(options.after));
    let window = Duration::from_secs(options.seconds);
    let [a, b] = [daemon.read()?, {
        thread::sleep(window);
        daemon.read()?
    }];
    let mut flip = 0;
    let begun = Instant::now();
    while begun.elapsed() < window {
        // Each one goes down, and recovers when all others had their turn, or three seconds later.
        let turn = flip % backends.min(15);
        let flag = &down[&names[turn * (backends / backends.min(15))]];
        flag.fetch_xor(true, Relaxed);
        flip += 1;
        thread::sleep(Duration::from_secs(1) / options.changes.max(1));
    }
    let c = daemon.read()?;
    let lost = lose(&names, &down, &daemon, options.each)?;
    print(backends, options, all_up, [&a, &b, &c], &lost);
    Ok(())
}

/// Result of the loss of many backends at once.
struct Lost {
    /// Time until the last of them was written.
    took: Duration,
    slots: Written,
}

/// Takes a tenth of each service's backends down at once, like the loss of a region, and waits
/// until all of them are out.
fn lose(names: &[String], down: &Down, daemon: &Daemon<'_>, each: usize) -> Result<Lost> {
    for name in names {
        down[name].store(false, Relaxed);
    }
    thread::sleep(CALM);
    let lost: Vec<&String> = names
        .chunks(each)
        .flat_map(|service| &service[..service.len() / 10])
        .collect();
    let before = daemon.read()?.written;
    let begun = Instant::now();
    for name in &lost {
        down[*name].store(true, Relaxed);
    }
    loop {
        thread::sleep(Duration::from_millis(100));
        let took = begun.elapsed();
        let slots = daemon.read()?.written.since(&before);
        if slots.count() >= lost.len() as f64 {
            return Ok(Lost { took, slots });
        }
        ensure!(
            took < CALM * 6,
            "of {} backends that are down {} are out after {took:?}",
            lost.len(),
            slots.count()
        );
    }
}

fn print(
    backends: usize,
    options: &Options,
    all_up: Duration,
    [a, b, c]: [&Reading; 3],
    lost: &Lost,
) {
    let slots = c.written.since(&b.written);
    let ms = |slots: &Written, share| {
        slots
            .quantile(share)
            .map_or("-".to_owned(), |s| format!("{:.2}", s * 1e3))
    };
    println!(
        "{backends:>8} {:>9} {:>10.1} {:>13.3} {:>13.3} {:>10.0} {:>9.0} {:>19} {:>8} {:>25}",
        backends.div_ceil(options.each),
        all_up.as_secs_f64(),
        b.core_since(a),
        c.core_since(b),
        c.memory_kib as f64 / 1024.0,
        b.probes_since(a),
        format!("{} / {}", ms(&slots, 0.5), ms(&slots, 0.99)),
        slots.count(),
        format!(
            "{:.1}, {} / {}",
            lost.took.as_secs_f64(),
            ms(&lost.slots, 0.5),
            ms(&lost.slots, 0.99)
        ),
    );
}

fn issue(folder: &Path, names: &[String]) -> Result<()> {
    pki::init(folder)?;
    let own = Identity::new(IdentityKind::Node, REGION, "edge")?;
    pki::issue(folder, &own, Validity::for_next(DAY), &[])?;
    for name in names {
        let identity = Identity::new(IdentityKind::Beacon, REGION, name)?;
        pki::issue(folder, &identity, Validity::for_next(DAY), &[])?;
    }
    Ok(())
}

/// Creates a node, and a namespace for all backends, which has every address of 10.0.0.0/8.
fn site() -> Result<(Namespace, Namespace)> {
    let (node, far) = (Namespace::create("node")?, Namespace::create("far")?);
    let end = |namespace, mac, addresses| End {
        namespace,
        name: "eth0",
        mac,
        addresses,
        gro: false,
    };
    Veth::between(
        end(&node, "02:00:00:00:00:01", &["172.31.0.1/30"]),
        end(&far, "02:00:00:00:00:02", &["172.31.0.2/30"]),
    )?;
    node.run(&["ip", "route", "add", "10.0.0.0/8", "via", "172.31.0.2"])?;
    far.run(&["ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo"])?;
    Ok((node, far))
}
