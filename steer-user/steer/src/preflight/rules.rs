//! Rules about combinations that do not work.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use steer_core::config::{Backend, Config, Mode, Principal, Protocol, Service, XdpMode};

use super::{Facts, Finding, memory, principal_id};

/// Largest MTU that drivers accept for a program that needs packets in one piece: a page, minus
/// headroom and the kernel's data after the packet.
const NATIVE_MTU: u32 = 3506;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
/// Size without options, as segment sizes are counted.
const TCP_HEADER: u32 = 20;

/// Reports missing interfaces.
pub(super) fn absent(config: &Config, facts: &Facts) -> Vec<Finding> {
    let names = config.node.interfaces.iter();
    let absent = names.filter(|name| !facts.interfaces.contains_key(*name));
    absent
        .map(|name| {
            Finding::new(
                format!("interface {name}"),
                "this host has no interface of that name",
            )
            .todo("check on the node itself; `ip link` lists its interfaces")
            .of_key("node", "interfaces")
            .fatal()
        })
        .collect()
}

pub(super) fn all(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(mtu_of_interfaces(config, facts));
    findings.extend(routes(config, facts));
    findings.extend(room_for_outer_headers(config, facts));
    findings.extend(ports(config, facts));
    findings.extend(memory(config, facts));
    findings.extend(bpffs(config, facts));
    findings.extend(principals(config));
    findings.extend(listeners(config, facts));
    findings
}

fn mtu_of_interfaces(config: &Config, facts: &Facts) -> Vec<Finding> {
    let native = config.node.xdp_mode == XdpMode::Native;
    let mut findings = Vec::new();
    for name in config.node.interfaces.iter().filter(|_| native) {
        let mtu = facts.interfaces.get(name).and_then(|i| i.mtu);
        if let Some(mtu) = mtu.filter(|mtu| *mtu > NATIVE_MTU) {
            let what =
                format!("its MTU is {mtu}, but most drivers refuse native XDP above {NATIVE_MTU}");
            findings.push(
                Finding::new(format!("interface {name}"), what)
                    .fix(format!("ip link set dev {name} mtu {NATIVE_MTU}"))
                    .todo("less"),
            );
        }
    }
    findings
}

/// Returns the first few names for a sentence.
pub(super) fn some<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> String {
    let names: Vec<&str> = backends.into_iter().map(|b| b.name.as_str()).collect();
    match names.len() {
        0..=3 => names.join(", "),
        count => format!("{} and {} others", names[..2].join(", "), count - 2),
    }
}

fn routes(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut by_error: BTreeMap<&str, Vec<&Backend>> = BTreeMap::new();
    for backend in &config.backends {
        if let Some(Err(error)) = facts.routes.get(&backend.address) {
            by_error.entry(error).or_default().push(backend);
        }
    }
    by_error
        .into_iter()
        .map(|(error, backends)| {
            let subject = format!("backends {}", some(backends.iter().copied()));
            Finding::new(subject, format!("there is no route to them: {error}")).todo(format!(
                "`ip route get {}` shows the reason",
                backends[0].address
            ))
        })
        .collect()
}

fn room_for_outer_headers(config: &Config, facts: &Facts) -> Vec<Finding> {
    let names = config.node.interfaces.iter();
    let from_clients = names
        .filter_map(|name| facts.interfaces.get(name)?.mtu)
        .max();
    let Some(inner) = from_clients else {
        return Vec::new();
    };
    let mut short: BTreeMap<(u32, u32), Vec<&Backend>> = BTreeMap::new();
    let clients = clients(config);
    for backend in &config.backends {
        let outer = backend.mode.overhead(backend.address.is_ipv6());
        if outer == 0 {
            continue;
        }
        let Some(Ok(route)) = facts.routes.get(&backend.address) else {
            continue;
        };
        if let Some(mtu) = route.mtu.filter(|mtu| *mtu < inner + outer) {
            short.entry((mtu, inner + outer)).or_default().push(backend);
        }
    }
    short
        .into_iter()
        .map(|((mtu, needed), backends)| {
            let what = format!(
                "packets of {inner} bytes from clients have {needed} with their outer headers, \
                 but the path MTU is {mtu}: senders of larger ones get an ICMP error, which costs \
                 a round trip"
            );
            let room = mtu.saturating_sub(needed - inner);
            let served = backends.iter().flat_map(|backend| &clients[&backend.name]);
            let commands: BTreeSet<String> = served.map(|v6| announce(*v6, room)).collect();
            let commands: Vec<String> = commands.into_iter().collect();
            Finding::new(format!("backends {}", some(backends)), what).todo(format!(
                "raise the MTU of the path to {needed}, or make the backends announce a smaller \
                 MSS: {} there",
                commands.join(" and ")
            ))
        })
        .collect()
}

/// Returns the command that makes a backend announce a segment size to clients, for packets of this
/// size; IPv6 headers are longer.
fn announce(v6: bool, room: u32) -> String {
    let (family, headers) = match v6 {
        true => ("-6 ", IPV6_HEADER + TCP_HEADER),
        false => ("", IPV4_HEADER + TCP_HEADER),
    };
    format!(
        "`ip {family}route change ... advmss {}`",
        room.saturating_sub(headers)
    )
}

/// Returns whether the services of each backend have IPv6 addresses, IPv4 ones, or both.
fn clients(config: &Config) -> BTreeMap<String, BTreeSet<bool>> {
    let names = config.backends.iter().map(|backend| backend.name.clone());
    let mut found: BTreeMap<String, BTreeSet<bool>> =
        names.map(|name| (name, BTreeSet::new())).collect();
    for service in &config.services {
        for index in config.members(service) {
            let families = found
                .entry(config.backends[index].name.clone())
                .or_default();
            families.insert(service.address.is_ipv6());
        }
    }
    found
}

/// Returns the unreserved ports in both ranges; `None` if there are none.
fn shared(
    nat: &RangeInclusive<u16>,
    local: &RangeInclusive<u16>,
    reserved: &[RangeInclusive<u16>],
) -> Option<RangeInclusive<u16>> {
    let both = *nat.start().max(local.start())..=*nat.end().min(local.end());
    let free = |port: &u16| !reserved.iter().any(|range| range.contains(port));
    let first = both.clone().find(free)?;
    let last = both.rev().find(free)?;
    Some(first..=last)
}

fn ports(config: &Config, facts: &Facts) -> Vec<Finding> {
    let nat = &config.nat.ports;
    let Some(local) = &facts.local_ports else {
        return Vec::new();
    };
    let Some(shared) = shared(nat, local, &facts.reserved_ports) else {
        return Vec::new();
    };
    let (first, last) = (shared.start(), shared.end());
    let mut findings = Vec::new();
    for address in &config.nat.addresses {
        let used = config
            .backends
            .iter()
            .filter(|b| b.mode == Mode::Nat)
            .any(|b| {
                let route = facts.routes.get(&b.address);
                route.is_some_and(|route| route.as_ref().is_ok_and(|r| r.source == *address))
            });
        if used {
            let what = format!(
                "the host's own connections to backends use this source, too, and ports {first} \
                 to {last} are in both ranges"
            );
            findings.push(
                Finding::new(format!("[nat] address {address}"), what)
                    .fix(format!(
                        "sysctl -w net.ipv4.ip_local_reserved_ports={}-{}",
                        nat.start(),
                        nat.end()
                    ))
                    .todo("give [nat] an address that the host does not use"),
            );
        }
    }
    findings
}

fn memory(config: &Config, facts: &Facts) -> Option<Finding> {
    let needed = memory::of_maps(config, facts.cpus);
    let available = facts
        .memory
        .filter(|available| !facts.pinned && *available < needed)?;
    let mib = |bytes: u64| bytes >> 20;
    let what = format!(
        "the maps need {} MiB, but only {} MiB are available",
        mib(needed),
        mib(available)
    );
    Some(
        Finding::new("memory", what)
            .todo("free memory, reduce the tables in [limits], or use a larger host"),
    )
}

fn principals(config: &Config) -> Vec<Finding> {
    let api = &config.api;
    let all = [&api.read, &api.operate, &api.admin];
    let unknown = all
        .into_iter()
        .flatten()
        .filter(|name| !matches!(name, Principal::Certificate(_)) && principal_id(name).is_none());
    unknown
        .map(|name| {
            Finding::new(
                format!("[api] {name}"),
                "this host has no such user or group",
            )
            .todo("`getent passwd` and `getent group` list them; numbers work, too")
        })
        .collect()
}

/// Reports listeners of this host on the address and port of a service.
fn listeners(config: &Config, facts: &Facts) -> Vec<Finding> {
    let is_own = |address: &IpAddr| {
        let mut interfaces = facts.interfaces.values();
        interfaces.any(|interface| interface.addresses.contains(address))
    };
    let taken = |service: &&Service| {
        let mut listeners = facts.listeners.iter();
        service.protocol == Protocol::Tcp
            && is_own(&service.address)
            && listeners.any(|at| {
                let here = at.ip() == service.address || at.ip().is_unspecified();
                here && (at.port() == service.port || service.port == 0)
            })
    };
    let services = config.services.iter().filter(taken);
    services
        .map(|service| {
            let place = SocketAddr::new(service.address, service.port);
            let what = format!(
                "a process of this host also listens on {place}: it receives no packets from the \
                 node's interfaces"
            );
            Finding::new(format!("service {}", service.name), what)
                .todo(
                    "`ss -ltnp` shows it: let it listen elsewhere, or keep it for clients on \
                       this host",
                )
                .into_note()
        })
        .collect()
}

fn bpffs(config: &Config, facts: &Facts) -> Option<Finding> {
    let path = config.node.bpffs.display();
    (facts.bpffs == Some(false)).then(|| {
        Finding::new(path.to_string(), "it is not a BPF file system")
            .fix(format!("mount -t bpf bpf {path}"))
            .fatal()
    })
}
