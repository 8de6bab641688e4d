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
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::{info, warn};

use self::moves::is_own;
use super::next_hops::Targets;

pub(crate) use self::moves::Update;

/// Time that a router is known after another one took over from it: longer than flows are kept without a packet by default.
const REPLACED_FOR: Duration = Duration::from_secs(3600);
/// Most routers of each kind, current and replaced, that are known.
const MAX_CURRENT_ROUTERS: usize = MAX_ROUTERS as usize / 2;
/// Most prefixes of a gateway that say who takes over from it.
const MAX_PREFIXES: usize = 8;
/// Changes of routes and neighbours come in flocks; one look answers them all.
const SETTLE: Duration = Duration::from_millis(20);
/// For what no event tells of.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Pause after a look-up, as a multiple of its duration.
const REST: u32 = 9;

/// Ways to all routers, current and replaced.
pub(crate) type Ways = BTreeMap<RouterKey, ClientNextHop>;

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
    adopted: Ways,
}

impl Routers {
    fn new(adopted: Ways) -> Self {
        Self {
            adopted,
            ..Self::default()
        }
    }

    /// Takes note of routes and of the paths to gateways, and returns the ways to all routers.
    fn update(
        &mut self,
        routes: &Routes,
        paths: &BTreeMap<Gateway, Vec<Path>>,
        now: Instant,
    ) -> Ways {
        self.note_current(routes, paths, now);
        self.note_gone(routes, now);
        self.explain_adopted(now);
        self.forget(now);
        self.ways()
    }

    fn note_current(
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
    fn note_gone(&mut self, routes: &Routes, now: Instant) {
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

    fn ways(&self) -> Ways {
        let mut ways = self.adopted.clone();
        for (key, (gateway, _)) in &self.replaced {
            let paths = self
                .known
                .get(gateway)
                .map_or(&[][..], |known| &known.paths);
            if let Some((_, way)) = succession::choose(key.interface, paths, |(to, _)| to.interface)
            {
                ways.insert(*key, *way);
            }
        }
        ways.extend(self.known.values().flat_map(|known| &known.paths).copied());
        while ways.len() > MAX_ROUTERS as usize {
            ways.pop_last();
        }
        ways
    }
}

/// Tells the ways to routers, and again whenever they change. Ends when nobody listens any more. `adopted` are those
/// that an earlier daemon knew.
pub(crate) async fn follow(
    neighbours: Neighbours,
    mut targets: watch::Receiver<Targets>,
    adopted: Ways,
    tell: mpsc::Sender<Update>,
) {
    let mut changes = neighbours.changes();
    let mut told = adopted.clone();
    let mut routers = Routers::new(adopted);
    let mut routes = Routes::new();
    let mut anew = true;
    let mut complained = false;
    loop {
        let begun = Instant::now();
        let seen = *changes.borrow_and_update();
        let attached = targets.borrow_and_update().attached.clone();
        let found = read_routes(&neighbours, &mut routes, anew, &attached).await;
        match found {
            Ok(paths) => {
                complained = false;
                let ways = routers.update(&routes, &paths, begun);
                if ways != told {
                    log_changes(&told, &ways);
                    let moves = routers.moves(&told, &ways);
                    told.clone_from(&ways);
                    if tell.send(Update { ways, moves }).await.is_err() {
                        return;
                    }
                }
            }
            // What was known holds until the kernel says otherwise.
            Err(error) if !complained => {
                complained = true;
                warn!(error = format!("{error:#}"), "no look at routers");
            }
            Err(_) => {}
        }
        let next = async {
            sleep(begun.elapsed() * REST).await;
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        // The netlink socket is gone; what remains is to ask now and then.
                        sleep(MAX_AGE).await;
                    }
                    sleep(SETTLE).await;
                    changed.is_err() || changes.borrow().others != seen.others
                }
                () = sleep(MAX_AGE) => false,
            }
        };
        anew = tokio::select! {
            anew = next => anew,
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                true
            }
        };
    }
}

async fn read_routes(
    neighbours: &Neighbours,
    routes: &mut Routes,
    anew: bool,
    attached: &[u32],
) -> anyhow::Result<BTreeMap<Gateway, Vec<Path>>> {
    if anew {
        *routes = neighbours.gateways().await?;
    }
    let gateways: BTreeSet<Gateway> = routes.values().flatten().copied().collect();
    let gateways = gateways.into_iter().take(MAX_CURRENT_ROUTERS);
    neighbours.paths(gateways, attached).await
}

/// Says which routers another one took over from.
fn log_changes(before: &Ways, ways: &Ways) {
    for (key, way) in ways {
        let is_new = before.get(key).is_none_or(|old| old.macs != way.macs);
        if is_new && !is_own(key, way) {
            let [a, b, c, d, e, f, ..] = key.mac.to_le_bytes();
            info!(
                router = mac_text([a, b, c, d, e, f]),
                successor = mac_text(way.macs.destination()),
                interface = way.interface,
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
        let way = ClientNextHop {
            macs: Macs::new([2, 0, 0, 0, 0, mac], [2, 0, 0, 0, 1, 1]),
            interface,
            ..ClientNextHop::default()
        };
        (key(interface, mac), way)
    }

    pub(super) fn routes(list: &[(&str, Gateway)]) -> Routes {
        let all = list.iter();
        all.map(|(to, gateway)| (prefix(to), vec![*gateway]))
            .collect()
    }

    /// Ways as interface and last byte of the router's address, then of the one that answers go to.
    fn short(ways: &Ways) -> Vec<[u32; 4]> {
        let all = ways.iter();
        all.map(|(key, way)| {
            let [.., to] = way.macs.destination();
            let [_, _, _, _, _, from, ..] = key.mac.to_le_bytes();
            [key.interface, from.into(), way.interface, to.into()]
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
        let adopted: Ways = [path(ETH0, 5), path(ETH1, 6)].into();
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
            let ways = routers.update(&routes, &paths, now);
            assert!(ways.len() <= MAX_ROUTERS as usize, "{}", ways.len());
            assert!(routers.replaced.len() <= MAX_CURRENT_ROUTERS);
        }
    }
}
