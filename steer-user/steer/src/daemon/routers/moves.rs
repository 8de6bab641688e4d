//! Moves of answers from one router to another, for the journal.

use steer_common::abi::{ClientNextHop, RouterKey, mac_word};
use steer_core::{
    dataplane::SteeringTables as _,
    domain::succession::{self, RouterPort},
    journal::Event,
};
use steer_dataplane::{Gateway, mac_text};

use super::{RouterNextHops, Routers};
use crate::daemon::event_loop::Daemon;

/// Next hops to all routers, and their changes for the journal.
#[derive(Debug)]
pub(crate) struct Update {
    pub(super) next_hops: RouterNextHops,
    pub(super) moves: Vec<Event>,
}

impl Routers {
    /// Returns the next hops that changed, with what they were decided by. A router that was found only now, and answers
    /// for itself, is no change.
    pub(super) fn moves(&self, before: &RouterNextHops, next_hops: &RouterNextHops) -> Vec<Event> {
        let changed = next_hops
            .iter()
            .filter(|(key, next_hop)| match before.get(*key) {
                Some(old) => old.macs != next_hop.macs || old.interface != next_hop.interface,
                None => !is_own(key, next_hop),
            });
        let moved = changed.map(|(key, next_hop)| {
            let own = self.known.iter().find_map(|(gateway, known)| {
                let own = known.paths.iter().find(|(of, _)| of == key)?;
                Some((gateway, std::slice::from_ref(own)))
            });
            let (gateway, paths) = match (own, self.replaced.get(key)) {
                (Some((gateway, own)), _) => (Some(gateway), own),
                (None, Some((to, _))) => {
                    let paths = self.known.get(to).map_or(&[][..], |known| &known.paths);
                    (Some(to), paths)
                }
                (None, None) => (None, &[][..]),
            };
            let ports = paths
                .iter()
                .map(|(of, next_hop)| port(of.interface, next_hop));
            let chosen = succession::choose(key.interface, paths, |(of, _)| of.interface);
            let to = chosen.map_or_else(
                || port(next_hop.interface, next_hop),
                |(of, next_hop)| port(of.interface, next_hop),
            );
            event(key, gateway, ports.collect(), Some(to))
        });
        let forgotten = before.keys().filter(|key| !next_hops.contains_key(*key));
        let forgotten = forgotten.map(|key| event(key, None, Vec::new(), None));
        moved.chain(forgotten).collect()
    }
}

fn event(
    key: &RouterKey,
    gateway: Option<&Gateway>,
    ports: Vec<RouterPort>,
    to: Option<RouterPort>,
) -> Event {
    let [a, b, c, d, e, f, ..] = key.mac.to_le_bytes();
    Event::Router {
        router: mac_text([a, b, c, d, e, f]),
        interface: key.interface,
        vlan: key.vlan(),
        gateway: gateway.map(|gateway| gateway.address),
        ports,
        to,
    }
}

fn port(interface: u32, next_hop: &ClientNextHop) -> RouterPort {
    RouterPort {
        interface,
        mac: mac_text(next_hop.macs.destination()),
    }
}

/// Returns whether answers go to the router itself.
pub(super) fn is_own(key: &RouterKey, next_hop: &ClientNextHop) -> bool {
    mac_word(next_hop.macs.destination()) == key.mac & 0xffff_ffff_ffff
}

impl Daemon {
    /// Has answers go to other routers.
    ///
    /// # Errors
    /// If the data path cannot be written.
    pub(crate) fn set_routers(&mut self, update: Update) -> anyhow::Result<()> {
        for event in update.moves {
            self.controller.recorder.record(event);
        }
        self.controller.dataplane.set_routers(&update.next_hops)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Instant};

    use super::{
        super::tests::{ETH0, ETH1, gateway, path, routes},
        *,
    };

    #[test]
    fn what_moves_is_journalled_with_the_gateway_that_takes_over() {
        let [one, two] = [gateway(ETH0, "10.0.0.1"), gateway(ETH1, "10.1.0.1")];
        let paths: BTreeMap<_, _> = [(one, vec![path(ETH0, 1)]), (two, vec![path(ETH1, 2)])].into();
        let mut routers = Routers::default();
        let now = Instant::now();
        let mut before = RouterNextHops::new();
        let mut by = |gateway| {
            let next_hops = routers.update(&routes(&[("0.0.0.0/0", gateway)]), &paths, now);
            let moves = routers.moves(&before, &next_hops);
            before = next_hops;
            moves
        };
        assert_eq!(by(one), [], "found, and answers for itself");
        let port = |interface, mac: &str| RouterPort {
            interface,
            mac: mac.to_owned(),
        };
        let moved = |address: &str, to: RouterPort| Event::Router {
            router: "02:00:00:00:00:01".to_owned(),
            interface: ETH0,
            vlan: 0,
            gateway: Some(address.parse().unwrap()),
            ports: vec![to.clone()],
            to: Some(to),
        };
        let two_port = port(ETH1, "02:00:00:00:00:02");
        assert_eq!(by(two), [moved("10.1.0.1", two_port)]);
        assert_eq!(by(two), []);
        let back = by(one);
        let one_port = port(ETH0, "02:00:00:00:00:01");
        assert!(back.contains(&moved("10.0.0.1", one_port)), "{back:?}");
    }
}
