//! Keeping the ways to backends known.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use steer_common::tables::NextHop;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::warn;

use crate::dataplane::Neighbours;

/// Changes of routes and neighbours come in flocks; one look answers them all.
const SETTLE: Duration = Duration::from_millis(20);
/// For what no event tells of.
const AGAIN: Duration = Duration::from_secs(5);

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

/// Tells the ways to all of `targets`, and again whenever something changes. Ends when nobody
/// listens any more.
pub(super) async fn follow(
    neighbours: Neighbours,
    mut targets: watch::Receiver<Targets>,
    tell: mpsc::Sender<Way>,
) {
    let mut changes = neighbours.changes();
    let mut complained: HashMap<String, String> = HashMap::new();
    loop {
        changes.mark_unchanged();
        let all = targets.borrow_and_update().clone();
        for (name, address) in all.backends {
            let way = match neighbours.next_hop(address, &all.attached).await {
                Ok(way) => {
                    complained.remove(&name);
                    way
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    if complained.get(&name) != Some(&text) {
                        warn!(backend = name, error = text, "no way to backend");
                        complained.insert(name.clone(), text);
                    }
                    None
                }
            };
            if tell.send((name, way)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = targets.changed() => if changed.is_err() { return },
            changed = changes.changed() => {
                if changed.is_err() {
                    // The netlink socket is gone; what remains is to ask now and then.
                    sleep(AGAIN).await;
                }
                sleep(SETTLE).await;
            }
            () = sleep(AGAIN) => {}
        }
    }
}
