//! The sections `[[service]]`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::names::Names;
use super::raw::{self, Text};
use super::read::List;
use super::report::Report;
use super::{Backend, Mode, NewFlows, Pool, Service};

const IDLE: Duration = Duration::from_secs(300);
const MIN_IDLE: Duration = Duration::from_secs(1);
/// New flows in a second, or at once.
const MAX_NEW_FLOWS: u32 = 10_000_000;
const MAX_IDLE: Duration = Duration::from_secs(7 * 86_400);
/// Services are named in URLs of the API and in metrics.
const NAME_LEN: usize = 63;

pub(super) fn services(
    raw: List<raw::Service>,
    pools: &Names<Pool>,
    backends: &Names<Backend>,
    report: &mut Report<'_>,
) -> Names<Service> {
    let mut names = Names::new("service", raw.partial);
    let mut vips = HashMap::new();
    for raw in raw.items {
        name(&raw.name, report);
        let service = service(&raw, pools, backends, report);
        if let Some(service) = &service {
            let vip = (service.address, service.port, service.protocol);
            if let Some(other) = vips.insert(vip, service.name.clone()) {
                let what = format!(
                    "service {:?} has the address, port and protocol of {other:?}",
                    service.name
                );
                report.add(
                    raw.address.span(),
                    what,
                    "remove one of them, or change one of the three",
                );
            }
        }
        names.push(&raw.name, service, report);
    }
    names
}

fn name(name: &Text, report: &mut Report<'_>) {
    let text = name.get_ref();
    let fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > NAME_LEN || !text.chars().all(fit) {
        let what = format!("{text:?} is not a name of a service");
        let todo = "use letters, digits, '-', '_' and '.' (63 at most)";
        report.add(name.span(), what, todo);
    }
}

fn service(
    raw: &raw::Service,
    pools: &Names<Pool>,
    backends: &Names<Backend>,
    report: &mut Report<'_>,
) -> Option<Service> {
    let owner = format!("service {:?}", raw.name.get_ref());
    let found = pools.resolve(&raw.pools, &owner, report);
    let idle = raw.idle_timeout.as_ref();
    let idle_timeout = report.duration(idle, IDLE, MIN_IDLE..=MAX_IDLE);
    let address = report.address(&raw.address)?;
    for (index, reference) in &found {
        let members = pools.item(*index).into_iter().flat_map(|p| &p.backends);
        for backend in members.filter_map(|b| backends.item(*b)) {
            fits(address, raw.port, backend, reference, report);
        }
    }
    let regions = regions(raw, &found, pools, backends, report);
    Some(Service {
        regions,
        new_flows: new_flows(raw, report),
        name: raw.name.get_ref().clone(),
        address,
        port: raw.port,
        protocol: raw.protocol,
        pools: found.into_iter().map(|(index, _)| index).collect(),
        end: raw.end,
        idle_timeout,
        open_flows: raw.open_flows,
    })
}

/// The regions that the service may be served from: each has a backend.
fn regions(
    raw: &raw::Service,
    found: &[(usize, &Text)],
    pools: &Names<Pool>,
    backends: &Names<Backend>,
    report: &mut Report<'_>,
) -> Option<Vec<String>> {
    let regions = raw.regions.as_ref()?;
    let present: Vec<&String> = found
        .iter()
        .filter_map(|(index, _)| pools.item(*index))
        .flat_map(|pool| &pool.backends)
        .filter_map(|backend| backends.item(*backend))
        .map(|backend| &backend.region)
        .collect();
    let todo = "name regions of backends of its pools, or leave `regions` out to allow all";
    if regions.get_ref().is_empty() {
        report.add(
            regions.span(),
            "the service may be served from nowhere",
            todo,
        );
    }
    // Of a pool that is not there nothing is known.
    let complete = found.len() == raw.pools.get_ref().len();
    for region in regions.get_ref().iter().filter(|_| complete) {
        if !present.contains(&region.get_ref()) {
            let what = format!(
                "no backend of the service is in region {:?}",
                region.get_ref()
            );
            report.add(region.span(), what, todo);
        }
    }
    let names = regions
        .get_ref()
        .iter()
        .map(|region| region.get_ref().clone());
    Some(names.collect())
}

fn new_flows(raw: &raw::Service, report: &mut Report<'_>) -> Option<NewFlows> {
    let Some(per_second) = &raw.new_flows_per_second else {
        if let Some(burst) = &raw.new_flows_burst {
            let what = "a burst of new flows, but no number of them in a second";
            report.add(burst.span(), what, "add `new_flows_per_second`");
        }
        return None;
    };
    let per_second = report.number(Some(per_second), 1, 1..=MAX_NEW_FLOWS);
    let burst = report.number(raw.new_flows_burst.as_ref(), per_second, 1..=MAX_NEW_FLOWS);
    Some(NewFlows { per_second, burst })
}

/// Checks that a backend can serve the VIP.
fn fits(vip: IpAddr, port: u16, backend: &Backend, pool: &Text, report: &mut Report<'_>) {
    let (name, pool_name) = (&backend.name, pool.get_ref());
    let wrapped = matches!(backend.mode, Mode::Ipip | Mode::Gue);
    if !wrapped && vip.is_ipv4() != backend.address.is_ipv4() {
        let what = format!(
            "{vip} and backend {name:?} of pool {pool_name:?} ({}) are not of one family",
            backend.address
        );
        let todo = "use backends of the service's family, or mode ipip or gue";
        report.add(pool.span(), what, todo);
    }
    if let (0, Mode::Nat { port: Some(port) }) = (port, backend.mode) {
        let what = format!(
            "a service with any port can't go to port {port} of backend {name:?} of pool {pool_name:?}"
        );
        let todo = "give the service a port, or remove `port` from the backend";
        report.add(pool.span(), what, todo);
    }
    if vip == backend.address {
        let what = format!("backend {name:?} of pool {pool_name:?} has the service's own address");
        let todo = "give backend and service different addresses, or packets go round in circles";
        report.add(pool.span(), what, todo);
    }
}
