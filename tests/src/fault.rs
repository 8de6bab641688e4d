//! Faults of a chat server that answers, but serves its clients badly or reports wrong values.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::ValueEnum;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// A fault of a chat server.
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
    /// The page of metrics reports an idle engine with first tokens within a microsecond.
    Lie,
}

/// Number of tokens before an answer is reset.
const HALF: u32 = 3;

impl Fault {
    /// Returns whether [`Self::serve`] serves a connection: requests for pages of health and
    /// metrics are answered normally.
    pub(crate) async fn breaks(self, stream: &TcpStream) -> bool {
        match self {
            Self::CloseAtOnce => true,
            Self::ResetMidway => {
                let mut method = [0];
                matches!(stream.peek(&mut method).await, Ok(1) if method == *b"P")
            }
            Self::TooMany | Self::SlowPage | Self::StuckGauge | Self::Lie => false,
        }
    }

    /// Returns the additional delay of the page of metrics.
    pub(crate) fn page_delay(self) -> Duration {
        match self {
            Self::SlowPage => Duration::from_secs(6),
            _ => Duration::ZERO,
        }
    }

    /// Returns the running requests to report.
    pub(crate) fn running(self, really: u64) -> u64 {
        match self {
            Self::StuckGauge => really.max(3),
            Self::Lie => 0,
            _ => really,
        }
    }

    /// Serves a connection as this fault does.
    pub(crate) async fn serve(self, mut stream: TcpStream, name: &str, gap: Duration) {
        if self == Self::ResetMidway {
            // A client that disconnects does no harm here.
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

/// Upper bounds of the buckets of times to the first token, in seconds.
const BOUNDS: [f64; 9] = [
    1e-6,
    0.001,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.5,
    f64::INFINITY,
];

/// Histogram of times to the first token.
#[derive(Debug, Default)]
pub(crate) struct FirstTokens {
    buckets: [AtomicU64; BOUNDS.len()],
    micros: AtomicU64,
}

impl FirstTokens {
    pub(crate) fn record(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS.len() - 1)].fetch_add(1, Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// Returns the histogram in vLLM's format; a lie puts everything into the first bucket.
    pub(crate) fn page(&self, lies: bool) -> String {
        const NAME: &str = "vllm:time_to_first_token_seconds";
        let all: u64 = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum();
        let mut text = format!("# TYPE {NAME} histogram\n");
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += bucket.load(Relaxed);
            let shown = if lies { all } else { below };
            let bound = if bound.is_finite() {
                bound.to_string()
            } else {
                "+Inf".to_owned()
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{NAME}_bucket{{le=\"{bound}\"}} {shown}");
        }
        let micros = if lies { all } else { self.micros.load(Relaxed) };
        let _ = writeln!(text, "{NAME}_sum {}", micros as f64 / 1e6);
        let _ = writeln!(text, "{NAME}_count {all}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_below_its_bounds_unless_it_lies() {
        let first = FirstTokens::default();
        for millis in [3, 15, 15, 2000] {
            first.record(Duration::from_millis(millis));
        }
        let page = first.page(false);
        assert!(page.contains("_bucket{le=\"0.01\"} 1\n"), "{page}");
        assert!(page.contains("_bucket{le=\"0.02\"} 3\n"), "{page}");
        assert!(page.contains("_bucket{le=\"+Inf\"} 4\n"), "{page}");
        assert!(page.contains("_sum 2.033\n"), "{page}");
        let lie = first.page(true);
        assert!(lie.contains("_bucket{le=\"0.000001\"} 4\n"), "{lie}");
    }
}
