//! Keeping the ways to backends known.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use steer_common::tables::NextHop;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::warn;

use crate::dataplane::{Neighbours, Route};

/// Changes of routes and neighbours come in flocks; one look answers them all.
const SETTLE: Duration = Duration::from_millis(20);
/// For what no event tells of.
const AGAIN: Duration = Duration::from_secs(5);
/// How many times as long as a look took nothing is looked at after it: neighbours of a thousand backends change
/// state all the time, and each route is a question to the kernel.
const REST: u32 = 9;

/// Whose ways are followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Targets {
    /// Backends by name.
    pub(super) backends: Vec<(String, IpAddr)>,
    /// Interfaces that the program is attached to, by index.
    pub(super) attached: Vec<u32>,
}

/// A backend's name, and the way to it if it is known.
pub(super) type Way = (String, Option<NextHop>);

/// Nobody listens any more.
struct Unheard;

/// What is known of the ways.
#[derive(Default)]
struct Ways {
    targets: Targets,
    /// Those of the backends, in their order.
    routes: Vec<Result<Route>>,
    /// What was told of them last.
    told: HashMap<String, Option<NextHop>>,
    /// What is wrong with them, as it was said.
    complained: HashMap<String, String>,
}

impl Ways {
    /// Takes others to follow. Of all of them is told anew.
    fn aim(&mut self, targets: Targets) {
        let names: HashSet<&str> = targets.backends.iter().map(|(n, _)| n.as_str()).collect();
        self.complained
            .retain(|name, _| names.contains(name.as_str()));
        self.told.clear();
        self.targets = targets;
    }

    /// Asks for all routes.
    async fn route(&mut self, neighbours: &Neighbours) {
        self.routes.clear();
        for (_, address) in &self.targets.backends {
            self.routes.push(neighbours.route(*address).await);
        }
    }

    /// Tells the ways by these routes that are other ones than it told before.
    async fn look(
        &mut self,
        neighbours: &Neighbours,
        tell: &mpsc::Sender<Way>,
    ) -> Result<(), Unheard> {
        let mut links = match neighbours.links().await {
            Ok(links) => links,
            Err(error) => {
                // What was known holds until the kernel says otherwise.
                warn!(error = format!("{error:#}"), "no look at neighbours");
                return Ok(());
            }
        };
        for ((name, _), route) in self.targets.backends.iter().zip(&self.routes) {
            let way = match route {
                Ok(route) => {
                    let way = links.way(route, &self.targets.attached).await;
                    way.map_err(|error| format!("{error:#}"))
                }
                Err(error) => Err(format!("{error:#}")),
            };
            let way = match way {
                Ok(way) => {
                    self.complained.remove(name);
                    way
                }
                Err(text) => {
                    if self.complained.get(name) != Some(&text) {
                        warn!(backend = name, error = text, "no way to backend");
                        self.complained.insert(name.clone(), text);
                    }
                    None
                }
            };
            if self.told.get(name) == Some(&way) {
                continue;
            }
            self.told.insert(name.clone(), way);
            tell.send((name.clone(), way)).await.map_err(|_| Unheard)?;
        }
        Ok(())
    }
}

/// Tells the ways to all of `targets`, and again whenever something changes. Ends when nobody
/// listens any more.
pub(super) async fn follow(
    neighbours: Neighbours,
    mut targets: watch::Receiver<Targets>,
    tell: mpsc::Sender<Way>,
) {
    let mut changes = neighbours.changes();
    let mut ways = Ways::default();
    ways.aim(targets.borrow_and_update().clone());
    // Routes may be other ones, and not only who answers at their ends.
    let mut anew = true;
    loop {
        let begun = Instant::now();
        let seen = *changes.borrow_and_update();
        if anew {
            ways.route(&neighbours).await;
        }
        if ways.look(&neighbours, &tell).await.is_err() {
            return;
        }
        let next = async {
            sleep(begun.elapsed() * REST).await;
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        // The netlink socket is gone; what remains is to ask now and then.
                        sleep(AGAIN).await;
                    }
                    sleep(SETTLE).await;
                    changed.is_err() || changes.borrow().others != seen.others
                }
                () = sleep(AGAIN) => true,
            }
        };
        anew = tokio::select! {
            anew = next => anew,
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                ways.aim(targets.borrow_and_update().clone());
                true
            }
        };
    }
}
