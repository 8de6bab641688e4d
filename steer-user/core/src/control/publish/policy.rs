//! Services and classes as the data path has them, from the configuration.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr},
};

use anyhow::Result;
use steer_common::abi::{
    Address, Family, MAX_MEMBERS, MemberState, Mode, Service, ServiceKey, SourceLimit,
    service_flags,
};

use crate::{
    config::{self, Config, End, OpenFlows, Policy, PolicyId},
    control::ids::{key, service_key},
    dataplane::{Class, Dataplane},
};

/// Id of the entries for source addresses of `nat`.
const NO_SERVICE: u16 = u16::MAX;

/// A service or class without its table and its regions.
pub(crate) fn service(config: &Config, policy: &Policy<'_>, id: u16) -> Service {
    let service = policy.service;
    let mut flags = 0;
    if service.open_flows == OpenFlows::Reset {
        flags |= service_flags::RESET_OPEN;
    }
    if policy.end == End::Reject {
        flags |= service_flags::REJECT;
    }
    // Flows that began in another class are in the nat table, too.
    let is_nat = |b: &usize| config.backends[*b].mode == Mode::Nat;
    if config.members(service).iter().any(is_nat) {
        flags |= service_flags::HAS_NAT;
    }
    if service.quic {
        flags |= service_flags::QUIC;
    }
    let (flow_interval, flow_burst) = policy.new_flows.map_or((0, 0), token_bucket);
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

/// Gives policies their limits for sources, which equal limits share, and marks those that may be shed: all below the
/// highest priority.
pub(crate) fn source_limits(
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
        let (interval, burst) = token_bucket(flows);
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
pub(crate) fn split(
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

/// Keeps the nat table looked up for services whose retired members may still have nat flows.
pub(crate) fn keep_nat(policies: &mut [Service], dataplane: &impl Dataplane) {
    let nat: HashSet<u16> = (1..MAX_MEMBERS as u16)
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

/// Interval between new flows in nanoseconds, and the burst in the same unit.
fn token_bucket(new_flows: config::NewFlows) -> (u32, u64) {
    let interval = (1_000_000_000 / new_flows.per_second).max(1);
    let more = u64::from(new_flows.burst).saturating_sub(1);
    (interval, u64::from(interval) * more)
}

/// Entries by which answers to the source addresses of `nat` are found.
pub(crate) fn nat_sources(config: &Config) -> Vec<Service> {
    let mut services = Vec::new();
    for address in &config.nat.addresses {
        for protocol in [6, 17] {
            services.push(Service {
                key: ServiceKey {
                    address: (*address).into(),
                    port: 0,
                    protocol,
                    family: Family::of_ip(address) as u8,
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
pub(crate) fn addresses(services: &[Service]) -> Vec<Service> {
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
