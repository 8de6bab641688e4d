//! What the configuration asks of the data path, by the numbers that kernel and daemon share.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Result, bail};
use aya::util::nr_cpus;
use steer_common::abi::{
    Address, Config as Settings, Family, MEMBERS, Member, MemberState, Mode, NatTimeouts, OPENINGS,
    Service, ServiceKey, SourceLimit, TICK_SHIFT, nat_flags, service_flags,
};

use super::cids;
use crate::{
    config::{self, Config, End, OpenFlows, Policy, PolicyId},
    dataplane::{Class, Dataplane},
};

/// How long a SYN may stay unanswered before its retransmission goes elsewhere, in ticks.
const NAT_RETRY_MS: u32 = 500;
/// Number of the entries for source addresses of `nat`.
const NO_SERVICE: u16 = u16::MAX;

/// Numbers of services, classes and members: those that the maps have already, and free ones for the rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    /// By the index of the service in the configuration.
    pub(super) services: Vec<u16>,
    /// Of services and classes, in the order of [`Config::policy_ids`].
    pub(super) policies: Vec<u16>,
    /// Those that services and classes have got which were not there.
    pub(super) fresh: Vec<u16>,
    /// By the indexes of service and backend.
    pub(super) members: BTreeMap<(usize, usize), u16>,
    /// By the index of the backend: services, by their indexes, and members.
    by_backend: Vec<Vec<(usize, u16)>>,
}

impl Numbers {
    /// Finds out what the maps have, and gives the rest free numbers.
    ///
    /// # Errors
    /// If there are more members than the data path holds.
    pub(super) fn assign(config: &Config, dataplane: &impl Dataplane) -> Result<Self> {
        let present = present(dataplane);
        let ids: HashMap<ServiceKey, u16> = present.iter().map(|p| (p.key, p.id)).collect();
        let mut used: HashSet<u16> = ids.values().copied().collect();
        let mut numbers = Self::default();
        let mut next = 0;
        for id in config.policy_ids() {
            let known = ids.get(&key(&config.policy(id))).copied();
            let number = known.unwrap_or_else(|| {
                while !used.insert(next) {
                    next += 1;
                }
                numbers.fresh.push(next);
                next
            });
            numbers.policies.push(number);
            if id.class.is_none() {
                numbers.services.push(number);
            }
        }
        let mut present = HashMap::new();
        let mut free = Vec::new();
        // From the top, so that the smallest free number is taken first.
        for id in (1..MEMBERS as u16).rev() {
            let member = dataplane.member(id);
            if member.state == MemberState::Absent as u8 {
                free.push(id);
            } else {
                present.insert((member.service, member.address), id);
            }
        }
        for (index, service) in config.services.iter().enumerate() {
            for backend in config.members(service) {
                let address = config.backends[backend].address.into();
                let known = present.get(&(numbers.services[index], address)).copied();
                let Some(id) = known.or_else(|| free.pop()) else {
                    bail!("more members than the {} that there can be", MEMBERS - 1);
                };
                numbers.members.insert((index, backend), id);
            }
        }
        numbers.by_backend.resize(config.backends.len(), Vec::new());
        for ((service, backend), id) in &numbers.members {
            numbers.by_backend[*backend].push((*service, *id));
        }
        Ok(numbers)
    }

    /// The members of a backend, each with the index of its service.
    pub(super) fn of_backend(&self, backend: usize) -> &[(usize, u16)] {
        self.by_backend.get(backend).map_or(&[], Vec::as_slice)
    }
}

/// Services and policies of classes that the data path has.
pub(super) fn present(dataplane: &impl Dataplane) -> Vec<Service> {
    let mut present = dataplane.services();
    present.extend(dataplane.policies());
    present
}

/// What a policy is known by.
pub(super) fn key(policy: &Policy<'_>) -> ServiceKey {
    let service = policy.service;
    ServiceKey {
        address: service.address.into(),
        port: service.port,
        protocol: service.protocol.number(),
        family: Family::of(&service.address) as u8,
        class: policy.class.map_or(0, config::Class::hash),
    }
}

/// The key of the service that a policy belongs to.
pub(super) fn service_key(key: ServiceKey) -> ServiceKey {
    ServiceKey { class: 0, ..key }
}

/// A policy without its table and its regions.
pub(super) fn policy(config: &Config, policy: &Policy<'_>, id: u16) -> Service {
    let service = policy.service;
    let mut flags = 0;
    if service.open_flows == OpenFlows::Reset {
        flags |= service_flags::RESET_OPEN;
    }
    if policy.end == End::Reject {
        flags |= service_flags::REJECT;
    }
    // Flows that began in another class are in the nat table, too.
    let is_nat = |b: &usize| matches!(config.backends[*b].mode, config::Mode::Nat { .. });
    if config.members(service).iter().any(is_nat) {
        flags |= service_flags::HAS_NAT;
    }
    if service.quic {
        flags |= service_flags::QUIC;
    }
    let (flow_interval, flow_burst) = policy.new_flows.map_or((0, 0), pace);
    Service {
        key: key(policy),
        flags,
        id,
        flow_interval,
        flow_burst,
        priority: policy.priority,
        ..Service::default()
    }
}

/// Gives policies their limits for sources, which those that are alike share, and lets those shed that are
/// less important than others.
pub(super) fn admit(
    config: &Config,
    ids: &[PolicyId],
    policies: &mut [Service],
) -> Result<Vec<SourceLimit>> {
    let mut limits: Vec<SourceLimit> = Vec::new();
    let highest = policies.iter().map(|policy| policy.priority).max();
    for (id, policy) in ids.iter().zip(policies) {
        if Some(policy.priority) < highest {
            policy.flags |= service_flags::SHEDS;
        }
        let wanted = config.policy(*id);
        let Some(flows) = wanted.source_flows else {
            continue;
        };
        let (interval, burst) = pace(flows);
        let limit = SourceLimit {
            burst,
            mask: mask(config, wanted.service.address),
            interval,
            _pad: 0,
        };
        let place = limits.iter().position(|known| *known == limit);
        let place = place.unwrap_or_else(|| {
            limits.push(limit);
            limits.len() - 1
        });
        policy.limit = u16::try_from(place + 1)?;
    }
    Ok(limits)
}

/// The bits of an address of this family that make a source.
fn mask(config: &Config, family: IpAddr) -> Address {
    let bits = match family {
        IpAddr::V4(_) => u32::from(config.admission.source_v4_bits) + Ipv6Addr::BITS - 32,
        IpAddr::V6(_) => u32::from(config.admission.source_v6_bits),
    };
    let rest = Ipv6Addr::BITS.saturating_sub(bits);
    let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
    Ipv6Addr::from_bits(mask).into()
}

/// Policies as services and their classes.
pub(super) fn split(
    config: &Config,
    ids: &[PolicyId],
    policies: Vec<Service>,
) -> (Vec<Service>, Vec<Class>) {
    let mut services = Vec::new();
    let mut classes = Vec::new();
    for (id, policy) in ids.iter().zip(policies) {
        match config.policy(*id).class {
            None => services.push(policy),
            Some(class) => classes.push(Class {
                policy,
                sources: class.sources.clone(),
                dscp: class.dscp.clone(),
            }),
        }
    }
    (services, classes)
}

/// Members that the configuration no longer has keep their flows, which the nat table has to be asked
/// for.
pub(super) fn keep_nat(policies: &mut [Service], dataplane: &impl Dataplane) {
    let nat: HashSet<u16> = (1..MEMBERS as u16)
        .map(|id| dataplane.member(id))
        .filter(|m| m.state != MemberState::Absent as u8 && m.mode == Mode::Nat as u8)
        .map(|member| member.service)
        .collect();
    let services = policies.iter().filter(|policy| policy.key.class == 0);
    let keys: HashSet<ServiceKey> = services
        .filter(|service| nat.contains(&service.id))
        .map(|service| service.key)
        .collect();
    for policy in policies {
        if keys.contains(&service_key(policy.key)) {
            policy.flags |= service_flags::HAS_NAT;
        }
    }
}

/// Nanoseconds from one new flow to the next, and those of which may come at once.
fn pace(new_flows: config::NewFlows) -> (u32, u64) {
    let interval = (1_000_000_000 / new_flows.per_second).max(1);
    let more = u64::from(new_flows.burst).saturating_sub(1);
    (interval, u64::from(interval) * more)
}

/// Entries by which answers to the source addresses of `nat` are found.
pub(super) fn nat_sources(config: &Config) -> Vec<Service> {
    let mut services = Vec::new();
    for address in &config.nat.addresses {
        for protocol in [6, 17] {
            services.push(Service {
                key: ServiceKey {
                    address: (*address).into(),
                    port: 0,
                    protocol,
                    family: Family::of(address) as u8,
                    class: 0,
                },
                flags: service_flags::NAT_SOURCE,
                id: NO_SERVICE,
                ..Service::default()
            });
        }
    }
    services
}

/// Entries by which fragments for one of the services' addresses are found, whatever their port.
pub(super) fn addresses(services: &[Service]) -> Vec<Service> {
    let mut found: Vec<Service> = Vec::new();
    for service in services {
        let key = ServiceKey {
            port: 0,
            protocol: 0,
            ..service.key
        };
        let flag = match service.key.protocol {
            6 => service_flags::ADDRESS_TCP,
            _ => service_flags::ADDRESS_UDP,
        };
        match found.iter_mut().find(|known| known.key == key) {
            Some(known) => known.flags |= flag,
            None => found.push(Service {
                key,
                flags: service_flags::ADDRESS | flag,
                id: NO_SERVICE,
                ..Service::default()
            }),
        }
    }
    found
}

/// A member, but for its state and its next hop.
pub(super) fn member(backend: &config::Backend, service: u16, number: u16) -> Member {
    let (mode, port) = match backend.mode {
        config::Mode::Nat { port } => (Mode::Nat, port.unwrap_or(0)),
        config::Mode::Ipip => (Mode::Ipip, 0),
        config::Mode::Gue => (Mode::Gue, 0),
        config::Mode::L2 => (Mode::L2, 0),
    };
    Member {
        address: backend.address.into(),
        mode: mode as u8,
        family: Family::of(&backend.address) as u8,
        port,
        service,
        backend: number,
        max_in_flight: backend.max_in_flight.unwrap_or(0),
        ..Member::default()
    }
}

/// The settings in the kernel, without seeds, which the data path keeps.
pub(super) fn settings(config: &Config) -> Settings {
    let count = |v4: bool| {
        let of = config.nat.addresses.iter().filter(|a| a.is_ipv4() == v4);
        of.count() as u16
    };
    let address =
        |outer: Option<config::Outer>| outer.map_or_else(Default::default, |o| o.address.into());
    let bits = |outer: Option<config::Outer>| outer.map_or(0, |o| o.bits);
    let first = *config.nat.ports.start();
    Settings {
        nat_v4: count(true),
        nat_v6: count(false),
        outer_v4: address(config.encap.v4),
        outer_v6: address(config.encap.v6),
        outer_v4_bits: bits(config.encap.v4),
        outer_v6_bits: bits(config.encap.v6),
        gue_port: config.encap.gue_port,
        nat_port_first: first,
        nat_port_count: (config.nat.ports.end() - first).saturating_add(1),
        nat_timeouts: nat_timeouts(config),
        nat_retry_ms: NAT_RETRY_MS,
        burst_gap_us: in_units(config.nat.burst_gap, 1024),
        nat_flags: nat_flags(config),
        // A machine with more CPUs than that has other worries.
        nat_openings: nr_cpus().map_or(0, |cpus| OPENINGS / cpus as u32),
        denies: u32::from(!config.admission.deny.is_empty()),
        cids: cids::layouts(config),
        ..Settings::default()
    }
}

fn nat_flags(config: &Config) -> u32 {
    let mut flags = 0;
    if config.nat.verify_checksums {
        flags |= nat_flags::VERIFIES_CHECKSUMS;
    }
    // In generic mode network cards and the kernel may have taken tags off already.
    if config.node.xdp_mode == config::XdpMode::Native {
        flags |= nat_flags::CHECKS_VLAN;
    }
    flags
}

/// How long nat entries are kept.
pub(super) fn nat_timeouts(config: &Config) -> NatTimeouts {
    NatTimeouts {
        idle_ms: idle_ms(config),
        udp_idle_ms: udp_idle_ms(config),
        opening_ms: in_units(config.nat.opening_timeout, 1 << TICK_SHIFT),
        udp_opening_ms: in_units(config.nat.udp_unassured_timeout, 1 << TICK_SHIFT),
        closed_ms: in_units(config.nat.closed_timeout, 1 << TICK_SHIFT),
    }
}

/// A time of the configuration in units of so many nanoseconds.
fn in_units(time: Duration, unit: u32) -> u32 {
    u32::try_from(time.as_nanos() / u128::from(unit)).unwrap_or(u32::MAX / 4)
}

/// The longest idle timeout of a service for UDP, in ticks.
pub(super) fn udp_idle_ms(config: &Config) -> u32 {
    longest(config, |service| service.protocol == config::Protocol::Udp)
}

/// The longest idle timeout of a service, in ticks.
pub(super) fn idle_ms(config: &Config) -> u32 {
    longest(config, |_| true)
}

fn longest(config: &Config, of: impl Fn(&config::Service) -> bool) -> u32 {
    let services = config.services.iter().filter(|service| of(service));
    let longest = services.map(|service| service.idle_timeout).max();
    longest.map_or(300_000, |idle| {
        u32::try_from(idle.as_millis()).unwrap_or(u32::MAX / 4)
    })
}
