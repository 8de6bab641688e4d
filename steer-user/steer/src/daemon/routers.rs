//! Routers next to this node, and which one took over from which: answers to clients behind them follow the node's
//! routes and neighbours.

mod moves;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use steer_common::abi::{ClientNextHop, MAX_ROUTERS, RouterKey};
use steer_core::domain::succession;
use steer_dataplane::{Gateway, Neighbours, Path, Prefix, mac_text};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use self::moves::is_own;
use super::{
    next_hops::Targets,
    route_changes::{self, LookUp},
};

pub(crate) use self::moves::Update;

/// Time that a router is known after another one took over from it: longer than flows are kept without a packet by default.
const REPLACED_FOR: Duration = Duration::from_secs(3600);
/// Most routers of each kind, current and replaced, that are known.
const MAX_CURRENT_ROUTERS: usize = MAX_ROUTERS as usize / 2;
/// Most prefixes of a gateway that say who takes over from it.
const MAX_PREFIXES: usize = 8;
/// Next hops to all routers, current and replaced.
pub(crate) type RouterNextHops = BTreeMap<RouterKey, ClientNextHop>;

type Routes = BTreeMap<Prefix, Vec<Gateway>>;

/// A gateway as it was found last.
#[derive(Clone, Debug, Default)]
struct Known {
    paths: Vec<Path>,
    prefixes: Vec<Prefix>,
    /// Since when no route leads to it.
    gone: Option<Instant>,
}

/// Follows gateways from one look to the next.
#[derive(Debug, Default)]
struct Routers {
    known: BTreeMap<Gateway, Known>,
    /// Routers that another gateway took over from, and when.
    replaced: BTreeMap<RouterKey, (Gateway, Instant)>,
    /// Entries of an earlier daemon that are not explained by now.
    adopted: RouterNextHops,
}

impl Routers {
    fn new(adopted: RouterNextHops) -> Self {
        Self {
            adopted,
            ..Self::default()
        }
    }

    /// Records routes and the paths to gateways, and returns the next hops to all routers.
    fn update(
        &mut self,
        routes: &Routes,
        paths: &BTreeMap<Gateway, Vec<Path>>,
        now: Instant,
    ) -> RouterNextHops {
        self.record_current(routes, paths, now);
        self.record_gone(routes, now);
        self.explain_adopted(now);
        self.forget(now);
        self.next_hops()
    }

    fn record_current(
        &mut self,
        routes: &Routes,
        paths: &BTreeMap<Gateway, Vec<Path>>,
        now: Instant,
    ) {
        let mut current: BTreeMap<Gateway, Vec<Prefix>> = BTreeMap::new();
        for (prefix, gateways) in routes {
            for gateway in gateways {
                let has_room = current.len() < MAX_CURRENT_ROUTERS;
                if !has_room && !current.contains_key(gateway) {
                    continue;
                }
                let prefixes = current.entry(*gateway).or_default();
                if prefixes.len() < MAX_PREFIXES {
                    prefixes.push(*prefix);
                }
            }
        }
        for (gateway, prefixes) in current {
            let known = self.known.entry(gateway).or_default();
            (known.prefixes, known.gone) = (prefixes, None);
            // While nobody knows where it is it is where it was.
            let Some(paths) = paths.get(&gateway) else {
                continue;
            };
            for (key, _) in std::mem::replace(&mut known.paths, paths.clone()) {
                if !paths.iter().any(|(new, _)| *new == key) {
                    self.replaced.insert(key, (gateway, now));
                }
            }
        }
    }

    /// Finds out who took over from gateways that no route leads to.
    fn record_gone(&mut self, routes: &Routes, now: Instant) {
        let routed: BTreeSet<&Gateway> = routes.values().flatten().collect();
        let gone: Vec<Gateway> = self.known.keys().copied().collect();
        for gateway in gone.into_iter().filter(|gateway| !routed.contains(gateway)) {
            let Some(known) = self.known.get_mut(&gateway) else {
                continue;
            };
            known.gone.get_or_insert(now);
            let default = known.prefixes.first().map(|(_, address, table)| {
                let any = if address.is_ipv4() {
                    std::net::Ipv4Addr::UNSPECIFIED.into()
                } else {
                    std::net::Ipv6Addr::UNSPECIFIED.into()
                };
                (0, any, *table)
            });
            let prefixes = known.prefixes.iter().chain(&default);
            let mut successors = prefixes.filter_map(|prefix| routes.get(prefix)?.first());
            let Some(successor) = successors.next().copied() else {
                continue;
            };
            if self
                .known
                .get(&successor)
                .is_none_or(|s| s.paths.is_empty())
            {
                continue;
            }
            let Some(known) = self.known.remove(&gateway) else {
                continue;
            };
            for (key, _) in known.paths {
                self.replaced.insert(key, (successor, now));
            }
            for (to, _) in self.replaced.values_mut() {
                if *to == gateway {
                    *to = successor;
                }
            }
        }
    }

    /// Finds out who took over, while no daemon ran, from routers that the one of before knew: the only gateway on
    /// the same link, if there is one only.
    fn explain_adopted(&mut self, now: Instant) {
        let link = |key: &RouterKey| (key.interface, key.vlan(), key.family);
        let mut links: BTreeMap<(u32, u16, u32), BTreeSet<Gateway>> = BTreeMap::new();
        for (gateway, known) in &self.known {
            for (key, _) in &known.paths {
                links.entry(link(key)).or_default().insert(*gateway);
            }
        }
        let replaced = &mut self.replaced;
        self.adopted.retain(|key, _| {
            let Some(gateways) = links.get(&link(key)) else {
                return true;
            };
            if let (1, Some(gateway)) = (gateways.len(), gateways.first()) {
                replaced.entry(*key).or_insert((*gateway, now));
            }
            false
        });
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |since: Instant| now.duration_since(since) > REPLACED_FOR;
        self.known
            .retain(|_, known| !known.gone.is_some_and(is_old));
        let known = &self.known;
        let is_current =
            |key: &RouterKey| known.values().any(|k| k.paths.iter().any(|p| p.0 == *key));
        self.replaced.retain(|key, (to, since)| {
            !is_old(*since) && known.contains_key(to) && !is_current(key)
        });
        while self.replaced.len() > MAX_CURRENT_ROUTERS {
            let oldest = self.replaced.iter().min_by_key(|(_, (_, since))| *since);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.replaced.remove(&oldest);
        }
    }

    fn next_hops(&self) -> RouterNextHops {
        let mut next_hops = self.adopted.clone();
        for (key, (gateway, _)) in &self.replaced {
            let paths = self
                .known
                .get(gateway)
                .map_or(&[][..], |known| &known.paths);
            if let Some((_, next_hop)) =
                succession::choose(key.interface, paths, |(to, _)| to.interface)
            {
                next_hops.insert(*key, *next_hop);
            }
        }
        next_hops.extend(self.known.values().flat_map(|known| &known.paths).copied());
        while next_hops.len() > MAX_ROUTERS as usize {
            next_hops.pop_last();
        }
        next_hops
    }
}

/// Sends the next hops to routers, and again whenever they change. Ends when the receiver is gone. `adopted` are those
/// that an earlier daemon knew.
pub(crate) async fn follow(
    neighbours: Neighbours,
    mut targets: watch::Receiver<Targets>,
    adopted: RouterNextHops,
    updates: mpsc::Sender<Update>,
) {
    let mut changes = neighbours.changes();
    let mut sent = adopted.clone();
    let mut routers = Routers::new(adopted);
    let mut routes = Routes::new();
    let mut reason = LookUp::Targets;
    let mut has_failed = false;
    loop {
        let begun = Instant::now();
        let seen = *changes.borrow_and_update();
        let attached = targets.borrow_and_update().attached.clone();
        let with_routes = matches!(reason, LookUp::Routes | LookUp::Targets);
        let found = read_routes(&neighbours, &mut routes, with_routes, &attached).await;
        match found {
            Ok(paths) => {
                has_failed = false;
                let next_hops = routers.update(&routes, &paths, begun);
                if next_hops != sent {
                    log_changes(&sent, &next_hops);
                    let moves = routers.moves(&sent, &next_hops);
                    sent.clone_from(&next_hops);
                    if updates.send(Update { next_hops, moves }).await.is_err() {
                        return;
                    }
                }
            }
            // What was known holds until the kernel says otherwise.
            Err(error) if !has_failed => {
                has_failed = true;
                warn!(
                    error = format!("{error:#}"),
                    "routers not read: replies to clients behind them go on as before"
                );
            }
            Err(_) => {}
        }
        let Some(next) = route_changes::wait(&mut changes, &mut targets, seen, begun).await else {
            return;
        };
        reason = next;
    }
}

async fn read_routes(
    neighbours: &Neighbours,
    routes: &mut Routes,
    with_routes: bool,
    attached: &[u32],
) -> anyhow::Result<BTreeMap<Gateway, Vec<Path>>> {
    if with_routes {
        *routes = neighbours.gateways().await?;
    }
    let gateways: BTreeSet<Gateway> = routes.values().flatten().copied().collect();
    let gateways = gateways.into_iter().take(MAX_CURRENT_ROUTERS);
    neighbours.paths(gateways, attached).await
}

/// Logs which routers another one took over from.
fn log_changes(before: &RouterNextHops, next_hops: &RouterNextHops) {
    for (key, next_hop) in next_hops {
        let is_new = before.get(key).is_none_or(|old| old.macs != next_hop.macs);
        if is_new && !is_own(key, next_hop) {
            let [a, b, c, d, e, f, ..] = key.mac.to_le_bytes();
            info!(
                router = mac_text([a, b, c, d, e, f]),
                successor = mac_text(next_hop.macs.destination()),
                interface = next_hop.interface,
                "answers to clients behind a router go to its successor"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use steer_common::abi::{Macs, mac_word};

    use super::*;

    pub(super) const ETH0: u32 = 3;
    pub(super) const ETH1: u32 = 4;

    pub(super) fn gateway(interface: u32, address: &str) -> Gateway {
        Gateway {
            interface,
            address: address.parse().unwrap(),
        }
    }

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        (len.parse().unwrap(), address.parse().unwrap(), 254)
    }

    pub(super) fn key(interface: u32, mac: u8) -> RouterKey {
        RouterKey::new(interface, 0, 4, mac_word([2, 0, 0, 0, 0, mac]))
    }

    pub(super) fn path(interface: u32, mac: u8) -> Path {
        let next_hop = ClientNextHop {
            macs: Macs::new([2, 0, 0, 0, 0, mac], [2, 0, 0, 0, 1, 1]),
            interface,
            ..ClientNextHop::default()
        };
        (key(interface, mac), next_hop)
    }

    pub(super) fn routes(list: &[(&str, Gateway)]) -> Routes {
        let all = list.iter();
        all.map(|(to, gateway)| (prefix(to), vec![*gateway]))
            .collect()
    }

    /// RouterNextHops as interface and last byte of the router's address, then of the one that answers go to.
    fn short(next_hops: &RouterNextHops) -> Vec<[u32; 4]> {
        let all = next_hops.iter();
        all.map(|(key, next_hop)| {
            let [.., to] = next_hop.macs.destination();
            let [_, _, _, _, _, from, ..] = key.mac.to_le_bytes();
            [key.interface, from.into(), next_hop.interface, to.into()]
        })
        .collect()
    }

    #[test]
    fn a_gateway_that_moves_takes_over_from_where_it_was_and_back() {
        let one = gateway(ETH0, "10.0.0.254");
        let routes = routes(&[("0.0.0.0/0", one)]);
        let mut routers = Routers::default();
        let now = Instant::now();
        let mut at =
            |mac| short(&routers.update(&routes, &[(one, vec![path(ETH0, mac)])].into(), now));
        assert_eq!(at(7), [[ETH0, 7, ETH0, 7]]);
        assert_eq!(at(8), [[ETH0, 7, ETH0, 8], [ETH0, 8, ETH0, 8]]);
        assert_eq!(at(7), [[ETH0, 7, ETH0, 7], [ETH0, 8, ETH0, 7]]);
        // While it is being looked for it is where it was.
        let unknown = routers.update(&routes, &BTreeMap::new(), now);
        assert_eq!(short(&unknown), [[ETH0, 7, ETH0, 7], [ETH0, 8, ETH0, 7]]);
        let later = now + REPLACED_FOR + Duration::from_secs(1);
        let paths = [(one, vec![path(ETH0, 7)])].into();
        assert_eq!(
            short(&routers.update(&routes, &paths, later)),
            [[ETH0, 7, ETH0, 7]]
        );
    }

    #[test]
    fn another_gateway_of_the_same_routes_takes_over_by_its_own_interface() {
        let [one, two] = [gateway(ETH0, "10.0.0.1"), gateway(ETH1, "10.1.0.1")];
        let other = gateway(ETH0, "10.0.0.9");
        let paths: BTreeMap<_, _> = [
            (one, vec![path(ETH0, 1)]),
            (two, vec![path(ETH1, 2)]),
            (other, vec![path(ETH0, 9)]),
        ]
        .into();
        let mut routers = Routers::default();
        let now = Instant::now();
        let mut by = |gateway, rest: &[(&str, Gateway)]| {
            let all = [&[("10.5.0.0/16", gateway)], rest].concat();
            short(&routers.update(&routes(&all), &paths, now))
        };
        let default = [("0.0.0.0/0", other)];
        let current = [[ETH1, 2, ETH1, 2], [ETH0, 9, ETH0, 9]];
        assert_eq!(by(one, &default).first(), Some(&[ETH0, 1, ETH0, 1]));
        let after = by(two, &default);
        assert_eq!(after[0], [ETH0, 1, ETH1, 2]);
        assert_eq!(after[1..], current);
        // One that still is a gateway is replaced by nobody.
        let both = by(two, &[("0.0.0.0/0", other), ("10.6.0.0/16", one)]);
        assert_eq!(both[0], [ETH0, 1, ETH0, 1]);
        // Without a route of its own its clients are behind the default one.
        let gone = short(&routers.update(&routes(&default), &paths, now));
        assert_eq!(gone[0], [ETH0, 1, ETH0, 9]);
        assert_eq!(gone[1], [ETH1, 2, ETH0, 9]);
    }

    #[test]
    fn a_gateway_whose_routes_go_without_another_stays_where_it_was() {
        let [one, two] = [gateway(ETH0, "10.0.0.1"), gateway(ETH0, "10.0.0.2")];
        let paths: BTreeMap<_, _> = [(one, vec![path(ETH0, 1)]), (two, vec![path(ETH0, 2)])].into();
        let mut routers = Routers::default();
        let now = Instant::now();
        routers.update(&routes(&[("0.0.0.0/0", one)]), &paths, now);
        let none = routers.update(&Routes::new(), &BTreeMap::new(), now);
        assert_eq!(short(&none), [[ETH0, 1, ETH0, 1]]);
        let back = routers.update(&routes(&[("0.0.0.0/0", two)]), &paths, now);
        assert_eq!(short(&back), [[ETH0, 1, ETH0, 2], [ETH0, 2, ETH0, 2]]);
    }

    #[test]
    fn what_an_earlier_daemon_knew_leads_to_the_only_gateway_of_the_link() {
        let [one, two] = [gateway(ETH0, "10.0.0.1"), gateway(ETH0, "10.0.0.2")];
        let adopted: RouterNextHops = [path(ETH0, 5), path(ETH1, 6)].into();
        let now = Instant::now();
        let mut routers = Routers::new(adopted.clone());
        let unknown = routers.update(&Routes::new(), &BTreeMap::new(), now);
        assert_eq!(unknown, adopted);
        let default = routes(&[("0.0.0.0/0", one)]);
        let paths: BTreeMap<_, _> = [(one, vec![path(ETH0, 1)]), (two, vec![path(ETH0, 2)])].into();
        let known = short(&routers.update(&default, &paths, now));
        assert_eq!(
            known,
            [[ETH0, 1, ETH0, 1], [ETH0, 5, ETH0, 1], [ETH1, 6, ETH1, 6]]
        );
        let mut routers = Routers::new([path(ETH0, 5)].into());
        let several = routes(&[("0.0.0.0/0", one), ("10.5.0.0/16", two)]);
        let known = short(&routers.update(&several, &paths, now));
        assert_eq!(known, [[ETH0, 1, ETH0, 1], [ETH0, 2, ETH0, 2]]);
    }

    #[test]
    fn no_more_routers_are_known_than_the_kernel_has_room_for() {
        let mut routers = Routers::default();
        let now = Instant::now();
        let many: Vec<(Prefix, Vec<Gateway>)> = (0..3000_u32)
            .map(|number| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + number).into();
                let of = Gateway {
                    interface: ETH0,
                    address,
                };
                ((32, address, 254), vec![of])
            })
            .collect();
        let routes: Routes = many.into_iter().collect();
        for round in 0..3_u64 {
            let paths = routes.values().flatten().map(|gateway| {
                let std::net::IpAddr::V4(address) = gateway.address else {
                    unreachable!("only IPv4 is made")
                };
                let mac = (u64::from(address.to_bits()) << 8 | round) & 0xffff_ffff_ffff;
                let key = RouterKey::new(ETH0, 0, 4, mac);
                (*gateway, vec![(key, ClientNextHop::default())])
            });
            let paths = paths.collect();
            let next_hops = routers.update(&routes, &paths, now);
            assert!(
                next_hops.len() <= MAX_ROUTERS as usize,
                "{}",
                next_hops.len()
            );
            assert!(routers.replaced.len() <= MAX_CURRENT_ROUTERS);
        }
    }
}
