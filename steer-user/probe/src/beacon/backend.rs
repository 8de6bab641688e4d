//! Connection check of the backend beside the beacon.
//!
//! While the backend is up, the check connects once a second and closes each connection with a FIN,
//! because some servers log a traceback for each reset. In between it asks the kernel whether
//! anything listens on the port, so that a dead backend is noticed within milliseconds.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::BeaconError;
use super::listener::Listeners;
use crate::probe::close_in_order;

/// Interval between connections while the kernel reports a listener.
const WATCHED_PERIOD: Duration = Duration::from_secs(1);
/// Interval if the kernel does not know the port, as behind address translation.
const UNWATCHED_PERIOD: Duration = Duration::from_millis(500);
/// Interval while connections are refused, which the backend does not see.
const DOWN_PERIOD: Duration = Duration::from_millis(50);
/// Interval between queries of the kernel.
const WATCH_PERIOD: Duration = Duration::from_millis(20);
/// Timeout of a connection on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// A running check, which ends when dropped.
#[derive(Debug)]
pub(super) struct BackendCheck {
    up: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for BackendCheck {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BackendCheck {
    /// Runs the first check, then repeats it in the background.
    pub(super) async fn start(address: SocketAddr) -> Result<Self, BeaconError> {
        on_this_machine(address)?;
        let listeners = match Listeners::open() {
            Ok(listeners) => Some(listeners),
            Err(error) => {
                tracing::warn!(%error, "cannot query the kernel for listening sockets");
                None
            }
        };
        let (tx, up) = watch::channel(connects(address).await);
        let task = tokio::spawn(async move {
            loop {
                let up = *tx.borrow();
                wait(address, listeners.as_ref(), up).await;
                let now = connects(address).await;
                if tx.send_replace(now) != now {
                    tracing::info!(backend = %address, up = now, "backend check");
                }
            }
        });
        Ok(Self { up, task })
    }

    /// Returns the outcome of the last check.
    pub(super) fn up(&self) -> bool {
        // A check that no longer runs proves nothing.
        *self.up.borrow() && !self.task.is_finished()
    }
}

/// Waits until the next check is due.
async fn wait(address: SocketAddr, listeners: Option<&Listeners>, up: bool) {
    if !up {
        sleep(DOWN_PERIOD).await;
        return;
    }
    let listens = || listeners.and_then(|listeners| listeners.listens(address)) == Some(true);
    if !listens() {
        sleep(UNWATCHED_PERIOD).await;
        return;
    }
    let end = Instant::now() + WATCHED_PERIOD;
    while Instant::now() < end {
        sleep(WATCH_PERIOD).await;
        if !listens() {
            return;
        }
    }
}

/// Checks that an address belongs to this machine: only such addresses can be bound.
pub(super) fn on_this_machine(address: SocketAddr) -> Result<(), BeaconError> {
    let bound = std::net::UdpSocket::bind((address.ip(), 0));
    bound.map(drop).map_err(|_| BeaconError::Remote(address))
}

async fn connects(address: SocketAddr) -> bool {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            close_in_order(stream);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Accepts a connection like a server that reads a request; returns the bytes read.
    async fn serve(listener: &TcpListener, greeting: &[u8]) -> io::Result<usize> {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(greeting).await?;
        let mut request = [0; 64];
        let read = stream.read(&mut request).await?;
        // Anything that follows a FIN is a reset.
        sleep(Duration::from_millis(20)).await;
        stream
            .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            .await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(read),
        }
    }

    #[tokio::test]
    async fn a_backend_sees_the_end_of_each_connection_and_few_of_them() {
        for greeting in [&b""[..], b"220 speaks first\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let check = BackendCheck::start(address).await.unwrap();
            let begun = Instant::now();
            for _ in 0..3 {
                assert_eq!(serve(&listener, greeting).await.unwrap(), 0);
            }
            assert!(check.up());
            // One connection at the start, and one per second.
            assert!(begun.elapsed() > Duration::from_millis(1900));
        }
    }

    #[tokio::test]
    async fn a_backend_that_goes_and_comes_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut check = BackendCheck::start(address).await.unwrap();
        assert!(check.up());
        drop(listener);
        check.up.wait_for(|up| !up).await.unwrap();
        let _listener = TcpListener::bind(address).await.unwrap();
        check.up.wait_for(|up| *up).await.unwrap();
    }

    #[tokio::test]
    async fn a_backend_behind_a_rule_that_the_kernel_does_not_know_is_asked_twice_a_second() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let begun = Instant::now();
        wait(address, None, true).await;
        assert!(begun.elapsed() >= UNWATCHED_PERIOD);
        // A different port, as if packets were redirected.
        let none = SocketAddr::new(address.ip(), 1);
        let listeners = Listeners::open().unwrap();
        wait(none, Some(&listeners), true).await;
        assert!(begun.elapsed() >= UNWATCHED_PERIOD * 2);
    }
}
