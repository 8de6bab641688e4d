//! Rules about the host and this process.

use steer_core::config::{Config, XdpMode};
use steer_dataplane::{OLDEST_KERNEL, UPGRADE};

use super::{Facts, Finding, Link};

/// Kinds of links whose packets native XDP never sees. tun is not listed, because tap has the same
/// kind.
const WITHOUT_NATIVE: [&str; 5] = ["bridge", "macvlan", "vxlan", "dummy", "vlan"];
/// Files that a daemon opens besides those of probers: maps, sockets, the journal.
const FILES: u64 = 64;

/// Returns findings that hold for any process on this host.
pub(super) fn of_host(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = kernel(facts).into_iter().collect();
    findings.extend(jit(facts));
    for name in &config.node.interfaces {
        findings.extend(link(name, config, facts));
        findings.extend(offloads(name, facts));
        findings.extend(sysctls(name, facts));
    }
    findings
}

/// Returns findings about this process as a daemon.
pub(super) fn of_process(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = capabilities(facts).into_iter().collect();
    findings.extend(files(config, facts));
    findings.extend(state(config, facts));
    findings.extend(clock(facts));
    findings
}

/// Reports a kernel on which the data path refuses to load.
fn kernel(facts: &Facts) -> Option<Finding> {
    let (major, minor) = facts.system.kernel.filter(|found| *found < OLDEST_KERNEL)?;
    let (oldest, patch) = OLDEST_KERNEL;
    let what = format!("Linux {major}.{minor} is too old: steer needs {oldest}.{patch} or later");
    Some(Finding::new("kernel", what).todo(UPGRADE).fatal())
}

fn jit(facts: &Facts) -> Option<Finding> {
    (facts.system.jit == Some(false)).then(|| {
        let what = "programs are interpreted, which costs ten times as much for each packet";
        Finding::new("net.core.bpf_jit_enable", what).fix("sysctl -w net.core.bpf_jit_enable=1")
    })
}

fn link(name: &str, config: &Config, facts: &Facts) -> Vec<Finding> {
    let subject = format!("interface {name}");
    let Some(link) = facts.links.get(name) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if !link.up {
        let fix = format!("ip link set dev {name} up");
        findings.push(Finding::new(&subject, "it is down").fix(fix));
    }
    let native = config.node.xdp_mode == XdpMode::Native;
    let kind = facts
        .drivers
        .get(name)
        .map_or(link.kind.as_str(), String::as_str);
    let without = WITHOUT_NATIVE.contains(&link.kind.as_str()) || WITHOUT_NATIVE.contains(&kind);
    if native && without {
        let what = format!("{kind} has no native XDP");
        let todo = "name the interface below it, or write xdp_mode = \"generic\", which is slow";
        findings.push(Finding::new(&subject, what).todo(todo).fatal());
    }
    findings.extend(deaf_veth(name, link, native, facts));
    let ours = facts.attached.iter().any(|attached| attached == name);
    if let Some(program) = link.program.filter(|_| !ours) {
        let what = format!("another XDP program is attached to it, with id {program}");
        findings.push(
            Finding::new(&subject, what)
                .fix(format!("ip link set dev {name} xdp off"))
                .todo("end the process that holds it: `bpftool link list` shows it")
                .fatal(),
        );
    }
    findings
}

/// Reports a veth whose peer may not receive what a program sends.
fn deaf_veth(name: &str, link: &Link, native: bool, facts: &Facts) -> Option<Finding> {
    if !native || link.kind != "veth" {
        return None;
    }
    let subject = format!("interface {name}");
    let what = "frames that the program sends on it arrive only if its peer has an XDP program, \
                or GRO for frames from another interface";
    let Some(peer) = &link.peer else {
        let todo = "if they do not arrive: `ethtool -K ... gro on` on its peer, in the peer's \
                    namespace";
        return Some(Finding::new(subject, what).todo(todo).into_note());
    };
    let has_program = facts
        .links
        .get(peer)
        .is_some_and(|peer| peer.program.is_some());
    let joins = facts
        .offloads
        .get(peer)
        .is_some_and(|offloads| offloads.gro);
    let fix = format!("ethtool -K {peer} gro on");
    (!has_program && !joins).then(|| Finding::new(subject, what).fix(fix))
}

fn offloads(name: &str, facts: &Facts) -> Vec<Finding> {
    let Some(offloads) = facts.offloads.get(name) else {
        return Vec::new();
    };
    let subject = format!("interface {name}");
    let mut findings = Vec::new();
    let mut off = |feature: &str, what: &str| {
        let fix = format!("ethtool -K {name} {feature} off");
        findings.push(Finding::new(&subject, what).fix(fix));
    };
    if offloads.lro {
        off(
            "lro",
            "lro is on: the card merges packets to sizes that cannot be forwarded",
        );
    }
    if offloads.rxvlan && facts.links.get(name).is_some_and(|link| link.vlans) {
        off(
            "rxvlan",
            "rxvlan is on: the card strips VLAN tags, and answers would be sent without them",
        );
    }
    findings
}

fn sysctls(name: &str, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let several = facts.interfaces.values().filter(|i| !i.loopback).count() > 1;
    if several && facts.rp_filter.get(name) == Some(&1) {
        let key = format!("net.ipv4.conf.{name}.rp_filter");
        let what = "1 is strict: answers to probes on another interface than the route to their \
                    sender are dropped";
        findings.push(Finding::new(&key, what).fix(format!("sysctl -w {key}=2")));
    }
    if facts.forwarding.get(name) == Some(&false) {
        let key = format!("net.ipv4.conf.{name}.forwarding");
        let what =
            "the kernel's routing cannot replace next hops that the daemon has not resolved yet";
        findings.push(
            Finding::new(&key, what)
                .fix(format!("sysctl -w {key}=1"))
                .into_note(),
        );
    }
    findings
}

fn capabilities(facts: &Facts) -> Option<Finding> {
    let lacks = &facts.system.lacks;
    (!lacks.is_empty()).then(|| {
        let names = lacks.join(", ");
        Finding::new("capabilities", format!("the process lacks {names}"))
            .fix(format!(
                "setpriv --ambient-caps +{0} --inh-caps +{0} steer run",
                caps(lacks)
            ))
            .todo("run it as root")
            .fatal()
    })
}

/// Returns capability names in the notation of setpriv(1).
fn caps(names: &[&str]) -> String {
    let short = |name: &&str| name.trim_start_matches("CAP_").to_lowercase();
    names.iter().map(short).collect::<Vec<_>>().join(",+")
}

/// Returns the maximum number of files that probes open.
#[must_use]
pub fn probe_files(config: &Config) -> u64 {
    let probes = config.backends.iter().map(|b| b.probes.len() as u64);
    // An old connection may overlap with a new one.
    2 * probes.sum::<u64>()
}

fn files(config: &Config, facts: &Facts) -> Option<Finding> {
    let needed = FILES + probe_files(config);
    let files = facts.system.files.filter(|files| *files < needed)?;
    let what = format!("the limit is {files}, but probes of this many backends need {needed}");
    Some(
        Finding::new("open files", what)
            .fix(format!("ulimit -n {needed}"))
            .todo(format!("LimitNOFILE={needed} in the unit")),
    )
}

/// Reports a state directory that is not writable.
fn state(config: &Config, facts: &Facts) -> Option<Finding> {
    let why = facts.state_refused.as_ref()?;
    let path = config.node.state_dir.display();
    let what =
        format!("it cannot be written ({why}): generations, the journal and drains are not stored");
    Some(
        Finding::new(path.to_string(), what)
            .fix(format!("install -d -m 0750 {path}"))
            .todo(
                "run it as a user with permission, or set another folder in `state_dir` of \
                   [node]",
            ),
    )
}

fn clock(facts: &Facts) -> Option<Finding> {
    (facts.system.clock_in_sync == Some(false)).then(|| {
        let what = "it is not synchronized: certificates and confirm windows depend on it";
        Finding::new("clock", what)
            .fix("timedatectl set-ntp true")
            .into_note()
    })
}

/// Reports backends whose next hop does not answer.
pub(super) fn neighbours(config: &Config, facts: &Facts) -> Vec<Finding> {
    let silent = config
        .backends
        .iter()
        .filter(|b| facts.unresolved.contains(&b.address));
    silent
        .map(|backend| {
            let address = backend.address;
            let what = format!("the next hop to {address} does not answer");
            let todo = format!(
                "check that it is running: `ip route get {address}` shows it, `ip neigh` its state"
            );
            Finding::new(format!("backend {}", backend.name), what).todo(todo)
        })
        .collect()
}
