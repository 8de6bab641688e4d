//! Whether the backend beside the beacon takes connections.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::BeaconError;

const EVERY: Duration = Duration::from_millis(50);
/// On this machine a connection that takes longer is one that the backend doesn't take.
const LIMIT: Duration = Duration::from_millis(250);

/// A running check; ends when dropped.
#[derive(Debug)]
pub(super) struct Check {
    up: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Check {
    /// Checks once, then again and again.
    pub(super) async fn start(address: SocketAddr) -> Result<Self, BeaconError> {
        on_this_machine(address)?;
        let (tx, up) = watch::channel(connects(address).await);
        let task = tokio::spawn(async move {
            let mut tick = interval(EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let now = connects(address).await;
                if tx.send_replace(now) != now {
                    tracing::info!(backend = %address, up = now, "backend check");
                }
            }
        });
        Ok(Self { up, task })
    }

    /// What the last check said.
    pub(super) fn up(&self) -> bool {
        // A check that no longer runs vouches for nothing.
        *self.up.borrow() && !self.task.is_finished()
    }
}

/// Checks that an address is one of this machine: only those can be bound.
pub(super) fn on_this_machine(address: SocketAddr) -> Result<(), BeaconError> {
    let bound = std::net::UdpSocket::bind((address.ip(), 0));
    bound.map(drop).map_err(|_| BeaconError::Remote(address))
}

async fn connects(address: SocketAddr) -> bool {
    match timeout(LIMIT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Reset instead of TIME_WAIT: twenty of these come each second.
            let _ = stream.set_zero_linger();
            true
        }
        _ => false,
    }
}
