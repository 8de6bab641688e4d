//! Configuration changes of a site under load: apply, confirm, roll back, crash, full disk; needs
//! root.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod apply;
mod crash;
mod journal;

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use steer_tests::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::{Load, Running, Sample},
    summary::Summary,
};

const SOON: Duration = Duration::from_secs(10);

/// Returns a plan of two equally near backends, in the middle of a ring.
fn plan(mode: &'static str) -> Plan {
    let mut plan = Plan::new(&["one", "two"], mode);
    for (_, delay) in &mut plan.backends {
        *delay = Some(Duration::from_millis(8));
    }
    plan
}

fn fleet(mode: &'static str) -> Fleet {
    let mut fleet = Fleet::new(plan(mode)).unwrap();
    fleet.start().unwrap();
    wait_for_both(&fleet);
    fleet
}

/// Waits until both backends are in one ring: the first round trip may be slow.
fn wait_for_both(fleet: &Fleet) {
    wait(SOON, "both have their share", || {
        let status = fleet.status()?;
        let members = status["services"][0]["members"].as_array();
        let shares = members.into_iter().flatten().map(|m| m["share"].as_f64());
        Ok(shares
            .flatten()
            .filter(|share| (0.4..0.6).contains(share))
            .count()
            == 2)
    })
    .unwrap();
}

fn load(fleet: &Fleet, duration: Duration) -> Running {
    let load = Load {
        duration,
        timeout: Duration::from_secs(3),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    };
    load.start_in(&fleet.site.client).unwrap()
}

fn errors(samples: &[Sample]) -> Vec<&str> {
    samples.iter().filter_map(|s| s.error.as_deref()).collect()
}

/// Returns the current share of requests that a backend answers.
fn share(fleet: &Fleet, backend: &str) -> f64 {
    let samples = load(fleet, Duration::from_millis(200)).finish().unwrap();
    assert!(errors(&samples).is_empty(), "{:?}", errors(&samples));
    Summary::from_samples(&samples).share(backend)
}

/// Returns the site's configuration with only these backends in its pool.
fn with_pool(fleet: &Fleet, backends: &[&str]) -> String {
    let pool = "backends = [\"one\", \"two\"]";
    let config = fleet.config();
    assert!(config.contains(pool), "{config}");
    config.replace(pool, &format!("backends = {backends:?}"))
}

/// Returns the site's configuration reduced to this backend.
fn with_one(fleet: &Fleet, name: &str) -> String {
    let config = with_pool(fleet, &[name]);
    let (head, rest) = config.split_once("\n[[backend]]").unwrap();
    let (backends, tail) = rest.split_once("\n[[pool]]").unwrap();
    let own = backends
        .split("\n[[backend]]")
        .find(|b| b.contains(&format!("{name:?}")));
    format!("{head}\n[[backend]]{}\n[[pool]]{tail}", own.unwrap())
}

/// Writes a configuration beside the daemon's own.
fn file(fleet: &Fleet, name: &str, text: &str) -> PathBuf {
    let folder = fleet.path(name);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("new.toml");
    fs::write(&path, text).unwrap();
    path
}

fn apply(fleet: &Fleet, text: &str, more: &[&str]) -> anyhow::Result<String> {
    let path = file(fleet, "apply", text);
    let path = path.display().to_string();
    fleet.cli(&[&["config", "apply", &path], more].concat())
}

/// Returns the generation in use, as reported by the daemon.
fn generation(fleet: &Fleet) -> u64 {
    fleet.status().unwrap()["generation"].as_u64().unwrap()
}

fn journal(fleet: &Fleet, command: &str) -> anyhow::Result<String> {
    let state = fleet.state().display().to_string();
    fleet.in_node(&["journal", command, "--state", &state])
}

fn wait_for_status(fleet: &Fleet) {
    wait(SOON, "the daemon answers", || Ok(fleet.status().is_ok())).unwrap();
}
