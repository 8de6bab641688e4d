//! Checks that concern the whole document.

use std::collections::{HashMap, HashSet};

use steer_common::abi::{self, MAX_CLASS_POLICIES, MAX_CLASS_PREFIXES, MAX_SERVICE_ENTRIES};

use super::{Config, Limits, node::NatSection, raw, report::Report, settings::Setting};
use crate::domain::maglev::table_size;

/// Usable entries of the perfect hash: services, their addresses, and each address of `nat` three
/// times (two protocols and the plain address).
const MAX_SERVICES: usize = MAX_SERVICE_ENTRIES as usize / 2;
/// Upper bound of members over all services; the rest is reserved for members being removed.
pub(super) const MAX_MEMBERS: usize = 16_000;
/// Upper bound of slots over all tables. Half of the arena, so that any configuration can replace
/// any other one.
pub(super) const MAX_SLOTS: usize = abi::MAX_SLOTS as usize / 2;
const _: () = assert!(MAX_MEMBERS < abi::MAX_MEMBERS as usize);

/// Size of the nat table if no flow needs it.
const NO_NAT: u32 = 1024;

/// Returns the sizes of the tables.
pub(super) fn limits(raw: &raw::Limits, nat: &NatSection, report: &mut Report<'_>) -> Limits {
    let nat_flows = match &raw.nat_flows {
        None if nat.typed.addresses.is_empty() => NO_NAT,
        value => report.count(value.as_ref(), Setting::NatFlows),
    };
    Limits {
        flows: report.count(raw.flows.as_ref(), Setting::Flows),
        nat_flows,
    }
}

/// Checks that no address has two meanings.
pub(super) fn addresses(nat: &NatSection, config: &Config, report: &mut Report<'_>) {
    let services = config.services.iter().map(|s| (s.address, &s.name));
    let vips: HashMap<_, _> = services.collect();
    let backends = config.backends.iter().map(|b| (b.address, &b.name));
    let backends: HashMap<_, _> = backends.collect();
    for (address, span) in nat.typed.addresses.iter().zip(&nat.spans) {
        if let Some(name) = vips.get(address) {
            let what = format!("{address} is also the address of service {name:?}");
            report.add(span.clone(), what, "use another address of this node");
        }
        if let Some(name) = backends.get(address) {
            let what = format!("{address} is also the address of backend {name:?}");
            report.add(span.clone(), what, "use an address of this node");
        }
    }
}

/// Checks that everything fits into the maps.
pub(super) fn sizes(config: &Config, report: &mut Report<'_>) {
    let mut members = 0;
    let mut slots = 0;
    for service in &config.services {
        if members <= MAX_MEMBERS && !report.is_over() {
            members += config.members(service).len();
        }
    }
    for id in config.policy_ids() {
        if slots <= MAX_SLOTS && !report.is_over() {
            slots += table_size(config.policy(id).members(config).len());
        }
    }
    let all = || config.services.iter().flat_map(|service| &service.classes);
    let classes = all().count();
    let prefixes: usize = all().map(|class| class.sources.len().max(1)).sum();
    let vips: HashSet<_> = config.services.iter().map(|s| s.address).collect();
    let entries = config.services.len() + vips.len() + 3 * config.nat.addresses.len();
    for (have, most, what) in [
        (
            entries,
            MAX_SERVICES,
            "services and their addresses (an address of [nat] counts three times)",
        ),
        (members, MAX_MEMBERS, "members (backends of each service)"),
        (slots, MAX_SLOTS, "slots (about a hundred for each member)"),
        (classes, MAX_CLASS_POLICIES as usize - 1, "classes"),
        (
            prefixes,
            MAX_CLASS_PREFIXES as usize / 2,
            "sources of classes",
        ),
    ] {
        if have > most {
            let what = format!("{have} {what}, which are more than {most}");
            let todo = "spread the services over several nodes";
            report.add(report.find("service"), what, todo);
        }
    }
}
