//! Pauses between look-ups of routes and neighbours.

use std::time::{Duration, Instant};

use steer_dataplane::Changes;
use tokio::{sync::watch, time::sleep};

/// Wait after a change: changes of routes and neighbours come in bursts, and one look-up answers
/// them all.
const SETTLE: Duration = Duration::from_millis(20);
/// Longest time between two look-ups: not every change has an event.
pub(super) const MAX_AGE: Duration = Duration::from_secs(5);
/// Pause after a look-up, as a multiple of its duration: neighbours of a thousand backends change
/// state all the time, and each route is a question to the kernel.
const PAUSE_FACTOR: u32 = 9;

/// Reason for the next look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookUp {
    /// Routes may have changed.
    Routes,
    /// Only neighbours have changed.
    Neighbours,
    /// Nothing has changed for a while.
    Age,
    /// Targets other than before.
    Targets,
}

/// Waits for the next look-up after one that began at `begun` and that knew the changes `seen`.
/// Returns `None` once nobody sets targets any more.
pub(super) async fn wait<T>(
    changes: &mut watch::Receiver<Changes>,
    targets: &mut watch::Receiver<T>,
    seen: Changes,
    begun: Instant,
) -> Option<LookUp> {
    let next = async {
        sleep(begun.elapsed() * PAUSE_FACTOR).await;
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    // The netlink socket is gone; what remains is to ask now and then.
                    sleep(MAX_AGE).await;
                }
                sleep(SETTLE).await;
                if changed.is_err() || changes.borrow().others != seen.others {
                    LookUp::Routes
                } else {
                    LookUp::Neighbours
                }
            }
            () = sleep(MAX_AGE) => LookUp::Age,
        }
    };
    tokio::select! {
        reason = next => Some(reason),
        changed = targets.changed() => changed.ok().map(|()| LookUp::Targets),
    }
}
