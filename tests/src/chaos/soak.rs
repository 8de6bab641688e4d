//! Random faults under load for a long time: every failed request must be explained by a fault, and
//! nothing may grow.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::Serialize;
use steer_common::abi::{ABI_VERSION, FlowEntry, FlowKey, NatForward, maps};

use super::{Death, Site};
use crate::load::Sample;

/// Interval between readings of the daemon's size.
const LOOK: Duration = Duration::from_secs(1);
/// Time after detection from which a new request must not fail: until then its writes and the
/// journal's clock may differ.
const GRACE: Duration = Duration::from_millis(100);

/// Faults to choose from.
const FAULTS: [Death; 10] = [
    Death::Killed,
    Death::EngineKilled,
    Death::BeaconKilled,
    Death::Stopped,
    Death::EngineStopped,
    Death::BlackHole,
    Death::HalfLost,
    Death::Slow,
    Death::Drained,
    Death::BeaconDrains,
];

/// Parameters of a soak test.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Duration.
    pub length: Duration,
    /// Seed of the faults, their victims and times.
    pub seed: u64,
    /// Forwarding mode.
    pub mode: &'static str,
    /// Interval between requests.
    pub every: Duration,
}

/// Result of a soak test.
#[derive(Clone, Debug, Serialize)]
pub struct Soaked {
    /// Seed.
    pub seed: u64,
    /// Duration in seconds.
    pub seconds: u64,
    /// Number of requests.
    pub requests: usize,
    /// Number of failed requests.
    pub failed: usize,
    /// Failed requests that no fault explains.
    pub unexplained: Vec<Unexplained>,
    /// Number of times that each fault happened.
    pub faults: BTreeMap<&'static str, usize>,
    /// Size of the daemon.
    pub growth: Growth,
}

/// A request that should not have failed.
#[derive(Clone, Debug, Serialize)]
pub struct Unexplained {
    /// Seconds since the start.
    pub at: f64,
    /// Backend that answered in part, if any.
    pub backend: Option<String>,
    /// Reason of the failure.
    pub error: String,
}

/// Size of the daemon in the first and the last quarter of its last life: medians.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Growth {
    /// Resident memory in KiB.
    pub memory_kib: [u64; 2],
    /// Open files.
    pub files: [u64; 2],
    /// Flows in the tables.
    pub flows: [u64; 2],
}

impl Growth {
    /// Returns in words what grew beyond its limit. The journal opens files over time, and memory
    /// is allocated in pages.
    #[must_use]
    pub fn too_much(&self) -> Vec<String> {
        let limits = [
            ("memory", self.memory_kib, 1.10, 4096),
            ("open files", self.files, 1.0, 8),
            ("flows", self.flows, 1.5, 200),
        ];
        let over = limits.iter().filter(|(_, [first, last], factor, more)| {
            *last as f64 > *first as f64 * factor + f64::from(*more)
        });
        over.map(|(what, [first, last], ..)| format!("{what}: {first} -> {last}"))
            .collect()
    }
}

/// A fault, from its start until its effects are over.
struct Window {
    victim: &'static str,
    begin: Instant,
    /// Time from which no new request may fail.
    shifted: Option<Instant>,
    repaired: Instant,
}

impl Window {
    fn explains(&self, sample: &Sample) -> bool {
        let whose = sample.backend.as_deref().is_none_or(|b| b == self.victim);
        let ends = sample.start + sample.total;
        let overlaps = sample.start <= self.repaired && ends >= self.begin;
        whose && overlaps && self.shifted.is_none_or(|at| sample.start <= at)
    }
}

/// Runs the test.
///
/// # Errors
///
/// Returns an error if the site cannot be created, or does not recover from a fault.
pub fn soak(plan: &Soak, say: impl Fn(&str)) -> Result<Soaked> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut site = Site::start(plan.mode, plan.every)?;
    let names = site.fleet.names();
    let (running, told, stop) = site.load()?;
    // Single requests are not reported here.
    thread::spawn(move || while told.recv().is_ok() {});
    let begin = Instant::now();
    let mut faults: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut windows = Vec::new();
    let mut sizes = Vec::new();
    while begin.elapsed() < plan.length {
        for _ in 0..random.random_range(1..=2) {
            sizes.push(size(&site)?);
            thread::sleep(LOOK);
        }
        let early = begin.elapsed() < plan.length / 3;
        let victim = random.random_range(0..names.len());
        let turn = random.random_range(0..20);
        if turn == 0 && early {
            say("SIGKILL of the daemon");
            Death::DaemonKilled.inflict(&mut site.fleet, victim)?;
            for name in &names {
                site.wait_until_well(name)?;
            }
            // A new daemon starts with a size of its own.
            sizes.clear();
            *faults.entry(Death::DaemonKilled.name()).or_default() += 1;
            continue;
        }
        if turn <= 2 {
            say("reload");
            reload(&mut site, turn == 1)?;
            *faults.entry("reload").or_default() += 1;
            continue;
        }
        let fault = *FAULTS.choose(&mut random).context("there are no faults")?;
        let name = names[victim];
        say(&format!("{name}: {}", fault.name()));
        let (wall, from) = (SystemTime::now(), Instant::now());
        fault.inflict(&mut site.fleet, victim)?;
        thread::sleep(Duration::from_millis(random.random_range(500..3000)));
        let detected = match fault.ends_new_flows() {
            true => site.detected(name, wall)?,
            false => None,
        };
        let shifted = detected.map(|(at, _)| {
            let after = at.duration_since(wall).unwrap_or_default();
            from + after + GRACE
        });
        fault.repair(&mut site.fleet, victim)?;
        site.wait_until_well(name)?;
        windows.push(Window {
            victim: name,
            begin: from,
            shifted,
            repaired: Instant::now(),
        });
        *faults.entry(fault.name()).or_default() += 1;
    }
    stop.send_replace(true);
    let samples = running.finish()?;
    let failed: Vec<&Sample> = samples.iter().filter(|s| s.error.is_some()).collect();
    let unexplained = failed
        .iter()
        .filter(|s| !windows.iter().any(|w| w.explains(s)));
    let unexplained = unexplained.map(|sample| Unexplained {
        at: sample.start.saturating_duration_since(begin).as_secs_f64(),
        backend: sample.backend.clone(),
        error: sample.error.clone().unwrap_or_default(),
    });
    Ok(Soaked {
        seed: plan.seed,
        seconds: begin.elapsed().as_secs(),
        requests: samples.len(),
        failed: failed.len(),
        unexplained: unexplained.collect(),
        faults,
        growth: growth(&sizes),
    })
}

/// Adds a service, or removes it again.
fn reload(site: &mut Site, more: bool) -> Result<()> {
    let mut text = site.fleet.config();
    if more {
        text += "\n[[service]]\nname = \"more\"\naddress = \"10.99.0.77\"\nport = 80\npools = [\"all\"]\n";
    }
    fs::write(site.fleet.config_path(), text)?;
    site.fleet.daemon()?.signal(libc::SIGHUP);
    crate::fleet::wait(Duration::from_secs(10), "the configuration counts", || {
        let status = site.fleet.status()?.to_string();
        Ok(status.contains("\"more\"") == more)
    })
}

/// Returns the daemon's memory, open files and flows.
fn size(site: &Site) -> Result<[u64; 3]> {
    let pid = site.fleet.daemon_pid()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = line.and_then(|line| line.split_whitespace().next());
    let memory = memory.context("the daemon has no memory")?.parse()?;
    let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    let flows =
        entries::<FlowEntry>(site, maps::FLOWS)? + entries::<NatForward>(site, maps::NAT_FORWARD)?;
    Ok([memory, files, flows])
}

/// Returns the number of entries of a flow table.
fn entries<T: aya::Pod>(site: &Site, name: &str) -> Result<u64> {
    let pins = site
        .fleet
        .bpffs()
        .join(format!("steer/v{ABI_VERSION}/maps"));
    let map = MapData::from_pin(pins.join(name)).with_context(|| name.to_owned())?;
    let map @ (Map::HashMap(_) | Map::LruHashMap(_)) = Map::from_map_data(map)? else {
        bail!("{name} is no table of flows");
    };
    let flows = HashMap::<_, FlowKey, T>::try_from(&map)?;
    // An entry removed during the count ends it early, which the median tolerates.
    Ok(flows.keys().map_while(Result::ok).count() as u64)
}

fn growth(sizes: &[[u64; 3]]) -> Growth {
    let quarter = (sizes.len() / 4).max(1);
    // The first readings are from the warm-up.
    let early = sizes
        .iter()
        .skip(quarter.min(sizes.len() / 8))
        .take(quarter);
    let late = sizes.iter().rev().take(quarter);
    let median = |mut values: Vec<u64>| {
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    };
    let both = |index: usize| {
        [
            median(early.clone().map(|size| size[index]).collect()),
            median(late.clone().map(|size| size[index]).collect()),
        ]
    };
    Growth {
        memory_kib: both(0),
        files: both(1),
        flows: both(2),
    }
}
