//! Next hops to backends, looked up again whenever routes or neighbours change.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Instant,
};

use anyhow::Result;
use steer_common::tables::NextHop;
use steer_dataplane::{Neighbours, Route};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::route_changes::{self, LookUp};

/// Backends whose next hops are looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    /// Backends.
    pub(crate) backends: Vec<Target>,
    /// Interfaces that the program is attached to, by index.
    pub(crate) attached: Vec<u32>,
}

/// A backend whose next hop is looked up.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// Bytes of outer headers of packets to it.
    pub(crate) overhead: u32,
}

/// Name of a backend, and the next hop to it if it is known.
pub(crate) type Resolved = (String, Option<NextHop>);

/// The receiver is gone.
struct ReceiverGone;

/// Next hops as they were looked up last.
#[derive(Default)]
struct NextHops {
    targets: Targets,
    /// Those of the backends, in their order.
    routes: Vec<Result<Route>>,
    /// Next hops that were sent last.
    sent: HashMap<String, Option<NextHop>>,
    /// Errors that were logged last.
    errors: HashMap<String, String>,
}

impl NextHops {
    /// Takes other targets. All next hops are sent again.
    fn set_targets(&mut self, targets: Targets) {
        let names: HashSet<&str> = targets.backends.iter().map(|t| t.name.as_str()).collect();
        self.errors.retain(|name, _| names.contains(name.as_str()));
        self.sent.clear();
        self.targets = targets;
    }

    /// Looks up all routes.
    async fn look_up_routes(&mut self, neighbours: &Neighbours) {
        self.routes.clear();
        for target in &self.targets.backends {
            self.routes.push(neighbours.route(target.address).await);
        }
    }

    /// Sends the next hops by these routes that changed.
    async fn send_changes(
        &mut self,
        neighbours: &Neighbours,
        updates: &mpsc::Sender<Resolved>,
    ) -> Result<(), ReceiverGone> {
        let mut links = match neighbours.links().await {
            Ok(links) => links,
            Err(error) => {
                // What was known holds until the kernel says otherwise.
                warn!(
                    error = format!("{error:#}"),
                    "neighbours not read: next hops stay as they are"
                );
                return Ok(());
            }
        };
        for (target, route) in self.targets.backends.iter().zip(&self.routes) {
            let name = &target.name;
            let next_hop = match route {
                Ok(route) => {
                    let attached = &self.targets.attached;
                    let next_hop = links.next_hop(route, target.overhead, attached).await;
                    next_hop.map_err(|error| format!("{error:#}"))
                }
                Err(error) => Err(format!("{error:#}")),
            };
            let next_hop = match next_hop {
                Ok(next_hop) => {
                    self.errors.remove(name);
                    next_hop
                }
                Err(text) => {
                    if self.errors.get(name) != Some(&text) {
                        warn!(backend = name, error = text, "no next hop to backend");
                        self.errors.insert(name.clone(), text);
                    }
                    None
                }
            };
            if self.sent.get(name) == Some(&next_hop) {
                continue;
            }
            self.sent.insert(name.clone(), next_hop);
            updates
                .send((name.clone(), next_hop))
                .await
                .map_err(|_| ReceiverGone)?;
        }
        Ok(())
    }
}

/// Sends the next hops of all `targets`, and again whenever something changes. Ends when the receiver is gone.
pub(crate) async fn follow(
    neighbours: Neighbours,
    mut targets: watch::Receiver<Targets>,
    updates: mpsc::Sender<Resolved>,
) {
    let mut changes = neighbours.changes();
    let mut next_hops = NextHops::default();
    next_hops.set_targets(targets.borrow_and_update().clone());
    let mut reason = LookUp::Targets;
    let mut routes_read = Instant::now();
    loop {
        let begun = Instant::now();
        let seen = *changes.borrow_and_update();
        // No event tells of a learned path MTU, however often neighbours change meanwhile.
        if reason != LookUp::Neighbours || routes_read.elapsed() >= route_changes::MAX_AGE {
            next_hops.look_up_routes(&neighbours).await;
            routes_read = begun;
        }
        if next_hops.send_changes(&neighbours, &updates).await.is_err() {
            return;
        }
        let Some(next) = route_changes::wait(&mut changes, &mut targets, seen, begun).await else {
            return;
        };
        if next == LookUp::Targets {
            next_hops.set_targets(targets.borrow_and_update().clone());
        }
        reason = next;
    }
}
