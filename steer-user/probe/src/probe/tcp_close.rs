//! The end of a connection that was made to see whether it could be.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the peer may take to end the connection on its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that are read of a peer that speaks first; one that sends more is reset.
const MAX_GREETING: u64 = 64 << 10;

/// Ends a connection in order, in a task of its own: there are servers that write a page of errors for each reset. What is
/// closed with unread bytes is reset, so that the peer is listened to until it ends the connection as well.
pub(crate) fn close_in_order(mut stream: TcpStream) {
    tokio::spawn(timeout(CLOSE_TIMEOUT, async move {
        let _ = stream.shutdown().await;
        let _ = tokio::io::copy(&mut stream.take(MAX_GREETING), &mut tokio::io::sink()).await;
    }));
}
