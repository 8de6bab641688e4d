//! The sections `[[service]]`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::names::Names;
use super::raw::{self, Text};
use super::read::List;
use super::report::Report;
use super::{Backend, Mode, Pool, Service};

const IDLE: Duration = Duration::from_secs(300);
const MIN_IDLE: Duration = Duration::from_secs(1);
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
    Some(Service {
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
