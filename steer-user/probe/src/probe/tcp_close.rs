//! Orderly close of a test connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for the peer to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes to read from a peer that speaks first; one that sends more is reset.
const MAX_GREETING: u64 = 64 << 10;

/// Closes a connection in order, in a task of its own: some servers log a traceback for each reset.
/// Closing with unread bytes would send a reset, so this reads until the peer closes as well.
pub(crate) fn close_in_order(mut stream: TcpStream) {
    tokio::spawn(timeout(CLOSE_TIMEOUT, async move {
        let _ = stream.shutdown().await;
        let _ = tokio::io::copy(&mut stream.take(MAX_GREETING), &mut tokio::io::sink()).await;
    }));
}
