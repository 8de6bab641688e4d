//! Events on the node, one after the other, each under load.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use steer_tests::{
    fleet::{Fleet, HTTP, Plan, wait},
    load::Load,
};

use crate::{
    Options,
    node::{Node, config},
    report::{Event, Figures, seconds},
};

/// Time for which traffic continues once the node is back.
const AFTER: Duration = Duration::from_secs(2);
/// Timeout of an event under load.
const LIMIT: Duration = Duration::from_secs(90);

/// Runs all events.
pub(crate) fn run(options: &Options) -> Result<Figures> {
    let fleet = Fleet::new(Plan {
        // Answers take a while, so that some are in progress at any time.
        thinking: [Duration::from_millis(40), Duration::from_millis(20)],
        tokens: 20,
        ..Plan::new(&["one", "two"], "nat")
    })?;
    println!("boot: booting a machine");
    let node = Node::boot(&options.system, &fleet)?;
    let mut figures = Figures::default();

    // First, so that it cannot lean on the node's package.
    println!("boot: the beacon's package");
    check_beacon(&node, &fleet, options)?;
    println!("boot: installing the node's package");
    let begin = Instant::now();
    node.install(&options.node)?;
    node.set_up(&fleet)?;
    node.run(&["systemctl", "start", "steer"])?;
    node.wait_until_steering("0")?;
    let first = load(&fleet, Duration::from_millis(1)).run_in(&fleet.site.client)?;
    let failed = first.iter().find_map(|sample| sample.error.as_deref());
    ensure!(failed.is_none(), "no first answer: {failed:?}");
    figures.first_answer_s = seconds(begin.elapsed());
    check_unit(&node)?;

    let mut under = |what, action: &dyn Fn() -> Result<()>| -> Result<()> {
        println!("boot: {what}");
        figures.events.push(event(&fleet, what, action)?);
        Ok(())
    };
    let restarts = |action: &dyn Fn() -> Result<()>| -> Result<()> {
        let old = node.main_pid()?;
        action()?;
        node.wait_until_steering(&old)
    };
    let system = |command: &[&str]| node.run(command).map(drop);

    under("nothing", &|| Ok(()))?;
    under("restart", &|| {
        restarts(&|| system(&["systemctl", "restart", "steer"]))
    })?;
    under("SIGKILL of the daemon", &|| {
        restarts(&|| system(&["systemctl", "kill", "--signal=KILL", "steer"]))
    })?;
    under("a daemon that hangs, until the watchdog bites", &|| {
        restarts(&|| system(&["systemctl", "kill", "--signal=STOP", "steer"]))
    })?;
    let text = config(&fleet.config(), &fleet);
    under("reload with another service", &|| {
        node.write_config(&(text.clone() + SERVICE))?;
        system(&["systemctl", "reload", "steer"])?;
        let status = node.status()?.to_string();
        ensure!(status.contains("another"), "not applied: {status}");
        Ok(())
    })?;
    under("reload with a configuration that is wrong", &|| {
        node.write_config("[node\n")?;
        let refused = node.run(&["systemctl", "reload", "steer"]);
        ensure!(refused.is_err(), "what is wrong was taken");
        node.write_config(&text)
    })?;
    let newer = node.newer(&options.node, None, &fleet)?;
    under("upgrade of the package", &|| {
        restarts(&|| node.install(&newer))
    })?;
    let broken = node.newer(&options.node, Some(BROKEN), &fleet)?;
    under("upgrade to a package that cannot run, and back", &|| {
        // The package is unpacked, and its daemon does not start.
        let _ = node.install(&broken);
        let dead = |state: String| state.trim() != "active";
        let state = node.run(&[
            "systemctl",
            "show",
            "steer",
            "--property=ActiveState",
            "--value",
        ])?;
        ensure!(dead(state), "a daemon that cannot run does");
        node.install(&options.node)?;
        node.wait_until_steering("0")
    })?;

    println!("boot: removing the packages");
    check_removal(&node, &fleet)?;
    Ok(figures)
}

/// A program that cannot run.
const BROKEN: &str = "#!/bin/sh\necho broken >&2\nexit 1\n";
/// Another service, for a reload.
const SERVICE: &str = "\n[[service]]\nname = \"another\"\naddress = \"10.99.0.77\"\nport = 80\n\
                       pools = [\"all\"]\n";

fn load(fleet: &Fleet, duration: Duration) -> Load {
    Load {
        concurrency: 8,
        duration,
        timeout: Duration::from_secs(5),
        ..Load::new(SocketAddr::new(fleet.vip(), HTTP))
    }
}

/// Runs an event while requests flow, and counts failures.
fn event(fleet: &Fleet, what: &'static str, action: &dyn Fn() -> Result<()>) -> Result<Event> {
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = Load {
        live: Some(tell),
        stop: Some(stopped),
        ..load(fleet, LIMIT)
    };
    let running = load.start_in(&fleet.site.client)?;
    told.recv_timeout(Duration::from_secs(10))
        .context("no request ended")?;
    let begin = Instant::now();
    let done = action().with_context(|| what.to_owned());
    let took = begin.elapsed();
    // Requests continue for a while, to show that the result is stable.
    let end = Instant::now() + AFTER;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        let _ = told.recv_timeout(left);
    }
    stop.send_replace(true);
    let samples = running.finish()?;
    done?;
    let reasons: BTreeSet<String> = samples.iter().filter_map(|s| s.error.clone()).collect();
    Ok(Event {
        what,
        requests: samples.len(),
        failed: samples.iter().filter(|s| s.error.is_some()).count(),
        reasons: reasons.into_iter().collect(),
        seconds: seconds(took),
    })
}

/// Checks the daemon's unit: not root, three capabilities, and a status text.
fn check_unit(node: &Node) -> Result<()> {
    let pid = node.main_pid()?;
    let status = node.run(&["cat", &format!("/proc/{pid}/status")])?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1))
            .with_context(|| format!("no {name} in {status}"))
    };
    ensure!(field("Uid:")? != "0", "the daemon runs as root");
    // CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39.
    let wanted = 1 << 12 | 1_u64 << 38 | 1 << 39;
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let found = u64::from_str_radix(field(set)?, 16)?;
        ensure!(found == wanted, "{set} {found:x}, not {wanted:x}");
    }
    ensure!(field("Seccomp:")? == "2", "no filter of system calls");
    let show = [
        "systemctl",
        "show",
        "steer",
        "--property=StatusText",
        "--value",
    ];
    // The loop reports it at its next tick.
    wait(Duration::from_secs(5), "the status says how it is", || {
        Ok(node.run(&show)?.contains("2 of 2 backends up"))
    })?;
    let log = node.run(&[
        "journalctl",
        "-u",
        "steer",
        "STEER_BACKEND=one",
        "-o",
        "cat",
    ])?;
    ensure!(log.contains("backend changed"), "its log says {log}");
    Ok(())
}

fn check_beacon(node: &Node, fleet: &Fleet, options: &Options) -> Result<()> {
    node.install(&options.beacon)?;
    let pki = fleet.path("pki");
    let file = |name: &str| std::fs::read_to_string(pki.join(name));
    node.write_file("/etc/steer-beacon/ca.pem", &file("ca.pem")?)?;
    node.write_file("/etc/steer-beacon/beacon.pem", &file("one.pem")?)?;
    node.write_file("/etc/steer-beacon/beacon.key", &file("one.key")?)?;
    node.run(&["systemctl", "restart", "steer-beacon"])?;
    let show = [
        "systemctl",
        "show",
        "steer-beacon",
        "--property=StatusText",
        "--value",
    ];
    let text = node.run(&show)?;
    ensure!(text.contains("7100"), "the beacon's status is {text}");
    let steer = node.run(&["sh", "-c", "command -v steer; true"])?;
    ensure!(
        steer.trim().is_empty(),
        "the node's program is there: {steer}"
    );
    Ok(())
}

/// Checks that removal leaves nothing in the kernel.
fn check_removal(node: &Node, fleet: &Fleet) -> Result<()> {
    node.run(&["dpkg", "--purge", "steer-beacon", "steer"])?;
    wait(Duration::from_secs(5), "no program is attached", || {
        let links = fleet.site.node.run(&["ip", "-d", "link"])?;
        Ok(!links.contains("prog/xdp"))
    })?;
    let pins = node.run(&["ls", "/sys/fs/bpf"])?;
    ensure!(!pins.contains("steer"), "pins are left: {pins}");
    ensure!(
        node.run(&["ls", "/var/lib/steer"]).is_err(),
        "state is left"
    );
    Ok(())
}
