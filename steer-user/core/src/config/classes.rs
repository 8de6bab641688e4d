//! The sections `[[class]]`.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use steer_common::abi::DSCPS;

use super::{
    Backend, Class, Pool, Service,
    limits::MAX_SLOTS,
    names::Names,
    raw,
    read::List,
    report::Report,
    services::{Chain, name, priority, rate},
    split,
};
use crate::domain::maglev::table_size;

/// Class by service, prefix and DSCP; no DSCP means all that no other class has.
type Taken = HashMap<(String, (IpAddr, u8), Option<u8>), String>;

/// Classes read so far, with the names of their services.
#[derive(Default)]
struct Known {
    names: HashSet<(String, String)>,
    /// Class names by service and hash; the data path knows classes by hash.
    hashes: HashMap<(String, u32), String>,
}

/// Reads classes and adds them to their services.
pub(super) fn classes(
    raw: List<raw::Class>,
    services: &mut Names<Service>,
    pools: &Names<Pool>,
    backends: &Names<Backend>,
    report: &mut Report<'_>,
) {
    let mut taken = Taken::new();
    let mut known = Known::default();
    let mut slots = 0;
    for raw in raw.items {
        let backends_of = |name: &raw::Text| pools.get(name).map_or(0, |pool| pool.backends.len());
        let members = raw.pools.get_ref().iter().map(backends_of).max();
        slots += table_size(members.unwrap_or(0));
        if report.is_over() {
            break;
        }
        if slots > MAX_SLOTS {
            let what = format!(
                "up to here classes have {slots} slots (about a hundred for each member), which are more than \
                 {MAX_SLOTS}"
            );
            report.add(
                raw.name.span(),
                what,
                "spread the services over several nodes",
            );
            break;
        }
        name("class", &raw.name, report);
        let owner = format!("class {:?}", raw.name.get_ref());
        let found = pools.resolve(&raw.pools, &owner, report);
        let sources = sources(&raw, report);
        let dscp = dscp(&raw, report);
        let Some(service) = services.find(&raw.service, &owner, report) else {
            continue;
        };
        let chain = Chain {
            of: "class",
            found: &found,
            complete: found.len() == raw.pools.get_ref().len(),
            pools,
            backends,
        };
        chain.fits(service.address, service.port, report);
        if raw.sources.is_none() && raw.dscp.is_none() {
            let what = format!("{owner} is for all clients of its service");
            let todo = "add `sources` or `dscp`, or change the service instead";
            report.add(raw.name.span(), what, todo);
        }
        same_family(&raw, &sources, service, report);
        clashes(&raw, &sources, &dscp, service, &mut taken, report);
        let place = (service.name.clone(), raw.name.get_ref().clone());
        if !known.names.insert(place) {
            let what = format!(
                "service {:?} has two classes named {:?}",
                service.name,
                raw.name.get_ref()
            );
            report.add(raw.name.span(), what, "rename one of them");
        }
        let regions = match &raw.regions {
            Some(regions) => Some(chain.regions(regions, report)),
            None => {
                let inherited = service.regions.clone();
                inherits(&raw, inherited.as_deref(), &chain, report);
                inherited
            }
        };
        let own = rate(
            "new_flows",
            raw.new_flows_per_second.as_ref(),
            raw.new_flows_burst.as_ref(),
            report,
        );
        let of_source = rate(
            "source_flows",
            raw.source_flows_per_second.as_ref(),
            raw.source_flows_burst.as_ref(),
            report,
        );
        let class = Class {
            name: raw.name.get_ref().clone(),
            sources,
            dscp,
            split: split::split_sections(raw.split.as_ref(), &found, chain.complete, report),
            pools: found.into_iter().map(|(index, _)| index).collect(),
            end: raw.end.unwrap_or(service.end),
            regions,
            new_flows: own.or(service.new_flows),
            source_flows: of_source.or(service.source_flows),
            priority: priority(raw.priority.as_ref(), service.priority, report),
        };
        let place = (service.name.clone(), class.hash());
        let other = known.hashes.entry(place).or_insert(class.name.clone());
        if *other != class.name {
            let what = format!("the data path cannot tell {owner} from {other:?}");
            report.add(raw.name.span(), what, "rename one of them");
        }
        service.classes.push(class);
    }
}

fn sources(raw: &raw::Class, report: &mut Report<'_>) -> Vec<(IpAddr, u8)> {
    let Some(list) = &raw.sources else {
        return Vec::new();
    };
    if list.get_ref().is_empty() {
        let todo = "add some, or omit `sources` for all clients";
        report.add(list.span(), "the class matches no client", todo);
    }
    let mut found: Vec<(IpAddr, u8)> = Vec::new();
    let mut seen = HashSet::new();
    for value in list.get_ref() {
        if report.is_over() {
            break;
        }
        let todo = "write one like 198.51.100.7 or 198.51.100.0/24, whose last bits are 0";
        let Some(prefix) = report.prefix(value, todo) else {
            continue;
        };
        if seen.insert(prefix) {
            found.push(prefix);
        } else {
            let what = format!("{} is listed twice", value.get_ref());
            report.add(value.span(), what, "remove one of them");
        }
    }
    found
}

fn dscp(raw: &raw::Class, report: &mut Report<'_>) -> Vec<u8> {
    let Some(list) = &raw.dscp else {
        return Vec::new();
    };
    if list.get_ref().is_empty() {
        let todo = "add some, or omit `dscp` for all of them";
        report.add(list.span(), "the class matches no DSCP", todo);
    }
    let mut found = Vec::new();
    for value in list.get_ref() {
        let number = report.number(Some(value), 0, 0..=DSCPS as u32 - 1);
        if let Ok(number) = u8::try_from(number)
            && !found.contains(&number)
        {
            found.push(number);
        }
    }
    found.sort_unstable();
    found
}

/// Checks that clients with these addresses can reach the service at all.
fn same_family(
    raw: &raw::Class,
    sources: &[(IpAddr, u8)],
    service: &Service,
    report: &mut Report<'_>,
) {
    let Some(list) = &raw.sources else {
        return;
    };
    let is_other = |(address, _): &&(IpAddr, u8)| address.is_ipv4() != service.address.is_ipv4();
    if let Some((address, len)) = sources.iter().find(is_other) {
        let what = format!(
            "no client of service {:?} has an address in {address}/{len}: {} is of the other family",
            service.name, service.address
        );
        report.add(list.span(), what, "name prefixes of the service's family");
    }
}

/// Checks that no other class of the service matches the same clients.
fn clashes(
    raw: &raw::Class,
    sources: &[(IpAddr, u8)],
    dscp: &[u8],
    service: &Service,
    taken: &mut Taken,
    report: &mut Report<'_>,
) {
    let all = match service.address {
        IpAddr::V4(_) => (IpAddr::V4([0; 4].into()), 0),
        IpAddr::V6(_) => (IpAddr::V6([0; 16].into()), 0),
    };
    let sources = if sources.is_empty() { &[all] } else { sources };
    let dscp: Vec<Option<u8>> = match dscp {
        [] => vec![None],
        some => some.iter().copied().map(Some).collect(),
    };
    let mut told = HashSet::new();
    for prefix in sources {
        for dscp in &dscp {
            let place = (service.name.clone(), *prefix, *dscp);
            let name = raw.name.get_ref().clone();
            let Some(other) = taken.insert(place, name) else {
                continue;
            };
            if !told.insert(other.clone()) {
                continue;
            }
            let (address, len) = prefix;
            let with = dscp.map_or(String::new(), |dscp| format!(" with DSCP {dscp}"));
            let what = format!(
                "clients in {address}/{len}{with} are for class {other:?} of service {:?}, too",
                service.name
            );
            let todo = "give one of them a longer prefix or other DSCPs";
            report.add(raw.name.span(), what, todo);
        }
    }
}

/// Checks that a class without `regions` can be served from its service's regions.
fn inherits(
    raw: &raw::Class,
    regions: Option<&[String]>,
    chain: &Chain<'_>,
    report: &mut Report<'_>,
) {
    let Some(regions) = regions.filter(|_| chain.complete) else {
        return;
    };
    if !chain
        .present()
        .iter()
        .any(|region| regions.contains(region))
    {
        let what = "no backend of the class is in the regions that its service may be served from";
        let todo = "add `regions` with those that the class may be served from";
        report.add(raw.pools.span(), what, todo);
    }
}
