//! Faults of a chat server that answers, and serves its clients badly or says what is not so.

use std::time::Duration;

use clap::ValueEnum;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// What is wrong with a chat server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Completions are answered by status 429 at once.
    TooMany,
    /// Answers are reset after half of their tokens.
    ResetMidway,
    /// Connections are accepted and closed.
    CloseAtOnce,
    /// The page of metrics takes six seconds.
    SlowPage,
    /// The gauge of running requests never falls below three.
    StuckGauge,
}

/// Tokens before an answer is reset.
const HALF: u32 = 3;

impl Fault {
    /// Whether a connection is served by [`Self::serve`]: requests for pages of health and metrics get an
    /// answer where others are reset.
    pub(crate) async fn breaks(self, stream: &TcpStream) -> bool {
        match self {
            Self::CloseAtOnce => true,
            Self::ResetMidway => {
                let mut method = [0];
                matches!(stream.peek(&mut method).await, Ok(1) if method == *b"P")
            }
            Self::TooMany | Self::SlowPage | Self::StuckGauge => false,
        }
    }

    /// How much longer the page of metrics takes.
    pub(crate) fn page_delay(self) -> Duration {
        match self {
            Self::SlowPage => Duration::from_secs(6),
            _ => Duration::ZERO,
        }
    }

    /// Requests that run at least, as the page has it.
    pub(crate) fn stuck(self) -> u64 {
        match self {
            Self::StuckGauge => 3,
            _ => 0,
        }
    }

    /// Serves a connection in the way of this fault.
    pub(crate) async fn serve(self, mut stream: TcpStream, name: &str, gap: Duration) {
        if self == Self::ResetMidway {
            // A client that goes away has no concern of this one.
            drop(half(&mut stream, name, gap).await);
            drop(stream.set_zero_linger());
        }
    }
}

/// Answers with the first tokens of a stream.
async fn half(stream: &mut TcpStream, name: &str, gap: Duration) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-backend: {name}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..HALF {
        let token = "data: {\"choices\":[{\"delta\":{\"content\":\"t \"}}]}\n\n";
        let chunk = format!("{:x}\r\n{token}\r\n", token.len());
        stream.write_all(chunk.as_bytes()).await?;
        sleep(gap).await;
    }
    Ok(())
}
