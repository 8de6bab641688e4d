//! The sections `[[backend]]` and `[[pool]]`.

use std::collections::HashMap;
use std::net::IpAddr;

use steer_common::abi::SourceList;
use steer_probe::pki::IdentityKind;

use super::{
    Backend, CidLayout, Encap, Mode, Nat, Pool, names::Names, node::identity, probes, quic, raw,
    read::List, report::Report, spanned::Spanned,
};

/// Upper bound of a capacity, and of a weight set by the operator.
pub(crate) const MAX_CAPACITY: u32 = 1_000_000;
const MAX_IN_FLIGHT: u32 = 1_000_000;
/// Upper bound of new flows per second.
const MAX_NEW_FLOWS: u32 = 10_000_000;

/// Sections that a backend depends on.
pub(super) struct Context<'a> {
    /// Region of the node, which is the default.
    pub(super) home: &'a str,
    /// Section `[nat]`; `None` if parts of it could not be read.
    pub(super) nat: Option<&'a Nat>,
    /// Section `[encap]`; `None` if parts of it could not be read.
    pub(super) encap: Option<&'a Encap>,
    pub(super) quic: &'a [CidLayout],
}

pub(super) fn backends(
    raw: List<raw::Backend>,
    context: &Context<'_>,
    report: &mut Report<'_>,
) -> Names<Backend> {
    let mut names = Names::new("backend", raw.partial);
    let mut places = HashMap::new();
    for raw in raw.items {
        if report.is_over() {
            names.stop();
            break;
        }
        let backend = backend(&raw, context, report);
        if let Some(backend) = &backend {
            let place = (backend.address, backend.mode, backend.port);
            if let Some(other) = places.insert(place, backend.name.clone()) {
                let what = format!(
                    "backend {:?} has the address and port of {other:?}",
                    backend.name
                );
                let todo = "keep one of them; `capacity` gives it a larger share";
                report.add(raw.address.span(), what, todo);
            }
        }
        names.push(&raw.name, backend, report);
    }
    names
}

fn backend(raw: &raw::Backend, context: &Context<'_>, report: &mut Report<'_>) -> Option<Backend> {
    identity(IdentityKind::Beacon, &raw.name, raw.region.as_ref(), report);
    let capacity = report.number(raw.capacity.as_ref(), 1, 1..=MAX_CAPACITY);
    let cost = report.number(raw.cost.as_ref(), 1, 0..=MAX_CAPACITY);
    let beacon = raw
        .beacon
        .as_ref()
        .and_then(|value| report.socket_address(value, "192.0.2.1:7100 or [2001:db8::1]:7100"));
    let mode = Mode::from(raw.mode);
    let port = port(mode, raw.port.as_ref(), report);
    let (probes, require) = probes::probes(raw, report);
    let max_in_flight = raw.max_in_flight.as_ref().map(|value| {
        if mode != Mode::Nat {
            let what = "open connections are counted only in mode nat";
            report.add(
                value.span(),
                what,
                "remove `max_in_flight`, or use mode nat",
            );
        }
        report.number(Some(value), 1, 1..=MAX_IN_FLIGHT)
    });
    let address = report.address(&raw.address)?;
    reachable(raw, address, context, report);
    Some(Backend {
        name: raw.name.get_ref().clone(),
        address,
        mode,
        port,
        region: match &raw.region {
            Some(region) => region.get_ref().clone(),
            None => context.home.to_owned(),
        },
        zone: raw.zone.clone(),
        capacity,
        cost,
        beacon,
        first_token: raw.first_token,
        probes,
        require,
        max_in_flight,
        server_ids: quic::server_ids(raw, context.quic, report),
    })
}

/// Returns the port of a backend, if different from the service's.
fn port(mode: Mode, port: Option<&Spanned<u16>>, report: &mut Report<'_>) -> Option<u16> {
    let port = port?;
    if mode != Mode::Nat {
        let what = "the port can differ from the service's only in mode nat";
        report.add(port.span(), what, "remove `port`, or use mode nat");
        return None;
    }
    if *port.get_ref() == 0 {
        let todo = "write 1 to 65535, or leave it out to keep the service's port";
        report.add(port.span(), "0 is not a port", todo);
    }
    Some(*port.get_ref())
}

/// Checks that the node has a source address for the backend.
fn reachable(raw: &raw::Backend, address: IpAddr, context: &Context<'_>, report: &mut Report<'_>) {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let of_family = |a: &IpAddr| a.is_ipv4() == address.is_ipv4();
    let (held, list) = match Mode::from(raw.mode).source_list() {
        Some(SourceList::Nat) => (
            context
                .nat
                .is_none_or(|nat| nat.addresses.iter().any(of_family)),
            "`addresses` of [nat]",
        ),
        Some(SourceList::Encap) => {
            let source = context.encap.is_none_or(|encap| match address {
                IpAddr::V4(_) => encap.v4.is_some(),
                IpAddr::V6(_) => encap.v6.is_some(),
            });
            (source, "`sources` of [encap]")
        }
        None => return,
    };
    if !held {
        let what = format!("{list} has no {family} address, which backend {address} needs");
        let todo = "add an address of this node that its backends can route to";
        report.add_once(format!("{list} {family}"), raw.address.span(), what, todo);
    }
}

pub(super) fn pools(
    raw: List<raw::Pool>,
    backends: &Names<Backend>,
    report: &mut Report<'_>,
) -> Names<Pool> {
    let mut names = Names::new("pool", raw.partial);
    for raw in raw.items {
        if report.is_over() {
            names.stop();
            break;
        }
        let owner = format!("pool {:?}", raw.name.get_ref());
        let found = backends.resolve(&raw.backends, &owner, report);
        let pool = Pool {
            name: raw.name.get_ref().clone(),
            backends: found.into_iter().map(|(index, _)| index).collect(),
            max_share: report.number(raw.max_share.as_ref(), 100, 1..=100),
            max_new_flows: raw
                .max_new_flows_per_second
                .as_ref()
                .map(|number| report.number(Some(number), 1, 1..=MAX_NEW_FLOWS)),
            overflow: raw.overflow,
        };
        names.push(&raw.name, Some(pool), report);
    }
    names
}
