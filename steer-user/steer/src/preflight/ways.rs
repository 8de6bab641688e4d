//! Rules about the interfaces on which answers of backends arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use steer_core::config::{Backend, Config, Service};

use super::{Facts, Finding, rules::some};

/// Path to a backend by the kernel's routing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Outgoing interface.
    pub interface: String,
    /// Whether the backend is on the same link, without a router in between.
    pub on_link: bool,
    /// Whether the interface forwards IPv4, so that this host can be the backend's gateway.
    pub forwards: bool,
    /// Whether it accepts IPv4 packets with a source address of this host.
    pub accepts_local: bool,
}

pub(super) fn all(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = without_program(config, facts);
    findings.extend(direct_return(config, facts));
    findings
}

/// Reports answers of backends under `nat` that arrive where no program is attached.
fn without_program(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut by_interface: BTreeMap<&str, Vec<&Backend>> = BTreeMap::new();
    for backend in &config.backends {
        if backend.mode.is_direct_return() {
            continue;
        }
        let Some(way) = facts.ways.get(&backend.address) else {
            continue;
        };
        if !has_program(&way.interface, config, facts) {
            by_interface
                .entry(&way.interface)
                .or_default()
                .push(backend);
        }
    }
    let mut all = config.node.interfaces.clone();
    all.extend(by_interface.keys().map(|name| (*name).to_owned()));
    let found = by_interface.into_iter();
    found
        .map(|(interface, backends)| {
            let what = format!(
                "the route to backends {} leads through {interface}, where no program is \
                 attached: their answers to the addresses of [nat] are not translated, and every \
                 connection hangs",
                some(backends)
            );
            Finding::new("[node] interfaces", what)
                .todo(format!(
                    "write interfaces = {all:?}, or let answers arrive on one of the \
                               configured ones"
                ))
                .of_key("node", "interfaces")
        })
        .collect()
}

/// Returns whether packets on an interface reach the program: there, on the lower device, or on its
/// ports.
fn has_program(interface: &str, config: &Config, facts: &Facts) -> bool {
    let named = |name: &str| config.node.interfaces.iter().any(|own| own == name);
    let link = facts.links.get(interface);
    named(interface)
        // Backends on this host occur only in tests.
        || facts.interfaces.get(interface).is_some_and(|found| found.loopback)
        || link.and_then(|link| link.below.as_deref()).is_some_and(named)
        || facts.ports(interface).any(named)
}

/// Reports VIPs on this host whose backends answer clients directly, possibly through this host.
fn direct_return(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for service in &config.services {
        let Some(owner) = owner(service, facts).filter(|_| seen.insert(service.address)) else {
            continue;
        };
        let backends: Vec<&Backend> = config
            .members(service)
            .into_iter()
            .map(|index| &config.backends[index])
            .filter(|backend| backend.mode.is_direct_return())
            .filter(|backend| facts.ways.get(&backend.address).is_some_and(is_trap))
            .collect();
        let Some(way) = backends.first().and_then(|b| facts.ways.get(&b.address)) else {
            continue;
        };
        let (address, interface) = (service.address, &way.interface);
        let what = format!(
            "{address} is an address of this host, on {owner}, and backends {} answer clients \
             directly: if this host is their gateway, its kernel drops their answers as martians",
            some(backends)
        );
        findings.push(
            Finding::new(format!("service {}", service.name), what)
                .fix(format!("ip addr del {address}/32 dev {owner}"))
                .todo(format!(
                    "use another gateway for the backends, or `sysctl -w \
                     net.ipv4.conf.{interface}.accept_local=1` with an rp_filter that is not 1"
                )),
        );
    }
    findings
}

/// Returns the interface with the service's address; IPv6 has no such check.
fn owner<'f>(service: &Service, facts: &'f Facts) -> Option<&'f str> {
    let IpAddr::V4(_) = service.address else {
        return None;
    };
    let mut interfaces = facts.interfaces.iter();
    let (name, _) = interfaces.find(|(_, found)| found.addresses.contains(&service.address))?;
    Some(name)
}

fn is_trap(way: &Way) -> bool {
    way.on_link && way.forwards && !way.accepts_local
}
