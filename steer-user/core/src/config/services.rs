//! The sections `[[service]]`.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use steer_common::abi::OuterHeaders;

use super::limits::MAX_MEMBERS;
use super::names::Names;
use super::raw::{self, Text};
use super::read::List;
use super::report::Report;
use super::spanned::Spanned;
use super::split;
use super::{Backend, Mode, NewFlows, Pool, Protocol, Service};

const IDLE: Duration = Duration::from_secs(300);
/// Range of a latency objective.
const OBJECTIVE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3_600);
const MIN_IDLE: Duration = Duration::from_secs(1);
/// Upper bound of new flows per second, and of a burst.
const MAX_NEW_FLOWS: u32 = 10_000_000;
/// Default limit of each source of a datagram service under `nat`.
const DATAGRAM_SOURCE_FLOWS: NewFlows = NewFlows {
    per_second: 1000,
    burst: 2000,
};
/// Default priority of a service.
const PRIORITY: u8 = 100;
const MAX_IDLE: Duration = Duration::from_secs(7 * 86_400);
/// Maximum length of a name; services are named in URLs of the API and in metrics.
const NAME_LEN: usize = 63;

pub(super) fn services(
    raw: List<raw::Service>,
    pools: &Names<Pool>,
    backends: &Names<Backend>,
    report: &mut Report<'_>,
) -> Names<Service> {
    let mut names = Names::new("service", raw.partial);
    let mut vips = HashMap::new();
    let mut members = 0;
    for raw in raw.items {
        let backends_of = |name: &Text| pools.get(name).map_or(0, |pool| pool.backends.len());
        members += raw
            .pools
            .get_ref()
            .iter()
            .map(backends_of)
            .max()
            .unwrap_or(0);
        if report.is_over() || members > MAX_MEMBERS {
            if members > MAX_MEMBERS {
                let what = format!(
                    "up to here there are {members} members (backends of each service), which are more than \
                     {MAX_MEMBERS}"
                );
                report.add(
                    raw.name.span(),
                    what,
                    "spread the services over several nodes",
                );
            }
            names.stop();
            break;
        }
        name("service", &raw.name, report);
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

/// Checks the name of a service or class.
pub(super) fn name(kind: &str, name: &Text, report: &mut Report<'_>) {
    let text = name.get_ref();
    let fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > NAME_LEN || !text.chars().all(fit) {
        let what = format!("{text:?} is not a valid name of a {kind}");
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
    let address = report.reached_address(&raw.address)?;
    let chain = Chain {
        of: "service",
        found: &found,
        complete: found.len() == raw.pools.get_ref().len(),
        pools,
        backends,
    };
    chain.fits(address, raw.port, report);
    let regions = raw.regions.as_ref();
    let objective = raw.objective.as_ref();
    let split_shift = report.number(raw.split_shift.as_ref(), 1, 1..=100);
    if let (Some(shift), None) = (&raw.split_shift, &raw.split) {
        let what = "`split_shift` without `split`";
        report.add(shift.span(), what, "add `split`, or remove it");
    }
    Some(Service {
        regions: regions.map(|regions| chain.regions(regions, report)),
        new_flows: rate(
            "new_flows",
            raw.new_flows_per_second.as_ref(),
            raw.new_flows_burst.as_ref(),
            report,
        ),
        source_flows: source_rate(raw, chain.has_nat(), report),
        priority: priority(raw.priority.as_ref(), PRIORITY, report),
        quic: quic(raw, report),
        classes: Vec::new(),
        name: raw.name.get_ref().clone(),
        address,
        port: raw.port,
        protocol: raw.protocol,
        split: split::split_sections(raw.split.as_ref(), &found, chain.complete, report),
        split_shift,
        objective: objective.map(|_| report.duration(objective, MAX_IDLE, OBJECTIVE)),
        pools: found.into_iter().map(|(index, _)| index).collect(),
        end: raw.end,
        idle_timeout,
        open_flows: raw.open_flows,
    })
}

fn quic(raw: &raw::Service, report: &mut Report<'_>) -> bool {
    let Some(quic) = raw.quic.as_ref().filter(|quic| *quic.get_ref()) else {
        return false;
    };
    if raw.protocol != Protocol::Udp {
        let todo = "add `protocol = \"udp\"`, or remove `quic`";
        report.add(quic.span(), "QUIC uses UDP, but the service uses TCP", todo);
    }
    true
}

/// Pools of a service or class, as far as they are valid.
pub(super) struct Chain<'a> {
    /// Kind of the owner: "service" or "class".
    pub(super) of: &'a str,
    pub(super) found: &'a [(usize, &'a Text)],
    /// Whether all pools are valid.
    pub(super) complete: bool,
    pub(super) pools: &'a Names<Pool>,
    pub(super) backends: &'a Names<Backend>,
}

impl Chain<'_> {
    /// Checks that the backends can serve the virtual address.
    pub(super) fn fits(&self, vip: IpAddr, port: u16, report: &mut Report<'_>) {
        for (index, reference) in self.found {
            let pool = self.pools.item(*index);
            let members = pool.into_iter().flat_map(|pool| &pool.backends);
            for backend in members.filter_map(|b| self.backends.item(*b)) {
                if report.is_over() {
                    return;
                }
                fits(vip, port, backend, reference, report);
            }
        }
    }

    /// Returns whether any backend has mode `nat`.
    fn has_nat(&self) -> bool {
        self.found
            .iter()
            .filter_map(|(index, _)| self.pools.item(*index))
            .flat_map(|pool| &pool.backends)
            .filter_map(|backend| self.backends.item(*backend))
            .any(|backend| backend.mode == Mode::Nat)
    }

    /// Returns the regions of the backends.
    pub(super) fn present(&self) -> HashSet<&String> {
        self.found
            .iter()
            .filter_map(|(index, _)| self.pools.item(*index))
            .flat_map(|pool| &pool.backends)
            .filter_map(|backend| self.backends.item(*backend))
            .map(|backend| &backend.region)
            .collect()
    }

    /// Returns the regions that may serve, each of which must have a backend.
    pub(super) fn regions(
        &self,
        regions: &Spanned<Vec<Text>>,
        report: &mut Report<'_>,
    ) -> Vec<String> {
        let of = self.of;
        let present = self.present();
        let todo = "list regions of backends in its pools, or omit `regions` to allow all";
        if regions.get_ref().is_empty() {
            let what = format!("no region may serve the {of}");
            report.add(regions.span(), what, todo);
        }
        // The regions of a missing pool or backend are unknown.
        let is_known =
            self.complete && self.backends.are_whole() && !present.iter().any(|r| r.is_empty());
        for region in regions.get_ref().iter().filter(|_| is_known) {
            if !present.contains(region.get_ref()) {
                let what = format!("no backend of the {of} is in region {:?}", region.get_ref());
                report.add(region.span(), what, todo);
            }
        }
        let names = regions.get_ref().iter();
        names.map(|region| region.get_ref().clone()).collect()
    }
}

/// Returns a rate limit; `of` is the common prefix of its keys.
pub(super) fn rate(
    of: &str,
    per_second: Option<&Spanned<u32>>,
    burst: Option<&Spanned<u32>>,
    report: &mut Report<'_>,
) -> Option<NewFlows> {
    if per_second.is_none() {
        if let Some(burst) = burst {
            let what = "a burst of new flows, but no rate per second";
            report.add(burst.span(), what, format!("add `{of}_per_second`"));
        }
        return None;
    }
    let per_second = report.number(per_second, 1, 1..=MAX_NEW_FLOWS);
    let burst = report.number(burst, per_second, 1..=MAX_NEW_FLOWS);
    Some(NewFlows { per_second, burst })
}

/// Returns the limit of each source: the configured one, or the default of datagram services under
/// `nat`, in which a forged source needs no handshake to take a port.
fn source_rate(raw: &raw::Service, nat: bool, report: &mut Report<'_>) -> Option<NewFlows> {
    let (per_second, burst) = (
        raw.source_flows_per_second.as_ref(),
        raw.source_flows_burst.as_ref(),
    );
    if per_second.is_some_and(|rate| *rate.get_ref() == 0) && burst.is_none() {
        return None;
    }
    let is_quic = raw.quic.as_ref().is_some_and(|quic| *quic.get_ref());
    if per_second.is_none() && burst.is_none() && nat && raw.protocol == Protocol::Udp && !is_quic {
        return Some(DATAGRAM_SOURCE_FLOWS);
    }
    rate("source_flows", per_second, burst, report)
}

pub(super) fn priority(value: Option<&Spanned<u32>>, default: u8, report: &mut Report<'_>) -> u8 {
    let number = report.number(value, u32::from(default), 0..=u32::from(u8::MAX));
    u8::try_from(number).unwrap_or(default)
}

/// Checks that a backend can serve the virtual address.
fn fits(vip: IpAddr, port: u16, backend: &Backend, pool: &Text, report: &mut Report<'_>) {
    let (name, pool_name) = (&backend.name, pool.get_ref());
    let is_wrapped = backend.mode.outer_headers() != OuterHeaders::None;
    if !is_wrapped && vip.is_ipv4() != backend.address.is_ipv4() {
        let what = format!(
            "{vip} and backend {name:?} of pool {pool_name:?} ({}) have different address families",
            backend.address
        );
        let todo = "use backends of the service's family, or mode ipip or gue";
        report.add_once(format!("{:?} family", pool.span()), pool.span(), what, todo);
    }
    if let (0, Some(port)) = (port, backend.port) {
        let what = format!(
            "a service with any port cannot use port {port} of backend {name:?} of pool \
             {pool_name:?}"
        );
        let todo = "give the service a port, or remove `port` from the backend";
        report.add_once(format!("{:?} port", pool.span()), pool.span(), what, todo);
    }
    if vip == backend.address {
        let what = format!("backend {name:?} of pool {pool_name:?} has the service's own address");
        let todo = "give backend and service different addresses, or packets loop";
        report.add(pool.span(), what, todo);
    }
}
