//! Rules about packets merged before generic XDP sees them: with up to 64 KiB they exceed the MTU
//! of any path to a backend.

use steer_core::config::{Config, XdpMode};

use super::{Facts, Finding};

pub(super) fn all(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.node.xdp_mode == XdpMode::Generic {
        for name in &config.node.interfaces {
            findings.extend(joined_here(name, facts));
            findings.extend(joined_by_sender(name, facts));
        }
    }
    findings
}

/// Returns the interfaces whose packets the kernel merges before the program: the interface itself,
/// and the ports of a bridge or a bond.
fn joined_here(name: &str, facts: &Facts) -> Vec<Finding> {
    let ports = facts.ports(name);
    let all = [name].into_iter().chain(ports);
    let joins = all.filter(|name| {
        // A veth has it enabled only while a native program is attached.
        let is_left = facts.kind(name) == "veth" && facts.attached.iter().any(|own| own == name);
        let gro = facts
            .offloads
            .get(*name)
            .is_some_and(|offloads| offloads.gro);
        gro && !is_left && !matches!(facts.kind(name), "bridge" | "bond")
    });
    joins
        .map(|port| {
            let of = if port == name {
                String::new()
            } else {
                format!(", of {name}")
            };
            let what = "gro is on, and merges packets before generic XDP sees them: they exceed \
                        the MTU of the path to a backend, so uploads and long prompts hang";
            Finding::new(format!("interface {port}{of}"), what)
                .fix(format!("ethtool -K {port} gro off"))
                .fatal()
        })
        .collect()
}

/// Returns a veth whose peer sends segments that its TCP has not split yet.
fn joined_by_sender(name: &str, facts: &Facts) -> Option<Finding> {
    let link = facts.links.get(name).filter(|link| link.kind == "veth")?;
    let what = "its peer may send packets of up to 64 KiB, which are split only for native XDP: \
                they exceed the MTU of the path to a backend, so uploads and long prompts hang";
    let finding = Finding::new(format!("interface {name}"), what);
    let native = "write xdp_mode = \"native\", which veth supports";
    match &link.peer {
        Some(peer) => {
            let cuts = facts
                .offloads
                .get(peer)
                .filter(|offloads| !offloads.tso && !offloads.gso);
            let fix = format!("ethtool -K {peer} tso off gso off");
            cuts.is_none().then(|| finding.fix(fix).todo(native))
        }
        None => Some(finding.todo(format!(
            "{native}, or `ethtool -K ... tso off gso off` on its peer, in the peer's namespace"
        ))),
    }
}
