//! A closed-loop load client: each worker makes one request after the other, each on a new
//! connection.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::netns::Namespace;
use crate::tls;

/// A load on a chat endpoint.
#[derive(Clone, Debug)]
pub struct Load {
    /// Address to connect to.
    pub target: SocketAddr,
    /// Whether to use TLS.
    pub tls: bool,
    /// Number of concurrent requests.
    pub concurrency: usize,
    /// Interval of requests that do not wait for earlier ones, instead of a fixed number at a time:
    /// a request that hangs does not delay others then.
    pub every: Option<Duration>,
    /// Duration.
    pub duration: Duration,
    /// Timeout of a request, from connecting to the end of the answer.
    pub timeout: Duration,
    /// Receiver of each request when it ends.
    pub live: Option<Sender<Sample>>,
    /// Switch that stops new requests early.
    pub stop: Option<watch::Receiver<bool>>,
}

/// Result of a request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Start of the connection.
    pub start: Instant,
    /// Backend that answered, as far as known.
    pub backend: Option<String>,
    /// Time to the first byte of the answer's content, if there was one.
    pub first: Option<Duration>,
    /// Time to the end, successful or not.
    pub total: Duration,
    /// Longest pause between two pieces of the answer.
    pub gap: Duration,
    /// Reason of a failure.
    pub error: Option<String>,
}

/// A load in progress.
#[derive(Debug)]
pub struct Running(JoinHandle<Result<Result<Vec<Sample>>>>);

impl Running {
    /// Waits for the load to end and returns its samples by start.
    pub fn finish(self) -> Result<Vec<Sample>> {
        self.0
            .join()
            .map_err(|_| anyhow!("the load client panicked"))??
    }
}

impl Load {
    /// Creates a load of four concurrent plain requests for a second, each with a timeout of a
    /// second.
    pub const fn new(target: SocketAddr) -> Self {
        let second = Duration::from_secs(1);
        Self {
            target,
            tls: false,
            concurrency: 4,
            every: None,
            duration: second,
            timeout: second,
            live: None,
            stop: None,
        }
    }

    /// Runs the load in a namespace to its end.
    pub fn run_in(&self, namespace: &Namespace) -> Result<Vec<Sample>> {
        self.start_in(namespace)?.finish()
    }

    /// Starts the load on a thread in a namespace.
    pub fn start_in(&self, namespace: &Namespace) -> Result<Running> {
        let load = self.clone();
        let thread = namespace.thread(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(load.run())
        })?;
        Ok(Running(thread))
    }

    /// Runs the load to its end and returns its samples by start.
    pub async fn run(&self) -> Result<Vec<Sample>> {
        let end = Instant::now() + self.duration;
        let tls = if self.tls { Some(tls::client()?) } else { None };
        if let Some(every) = self.every {
            return Ok(self.open(every, end, tls).await);
        }
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency {
            let (load, tls) = (self.clone(), tls.clone());
            workers.spawn(async move {
                let mut samples = Vec::new();
                let stopped = || load.stop.as_ref().is_some_and(|stop| *stop.borrow());
                while Instant::now() < end && !stopped() {
                    let sample = load.request(tls.clone()).await;
                    // A refused connection costs nothing: do not spin on it.
                    sleep(Duration::from_millis(if sample.error.is_some() {
                        5
                    } else {
                        0
                    }))
                    .await;
                    if let Some(live) = &load.live {
                        // The receiver may be gone.
                        let _ = live.send(sample.clone());
                    }
                    samples.push(sample);
                }
                samples
            });
        }
        let mut samples: Vec<Sample> = workers.join_all().await.into_iter().flatten().collect();
        samples.sort_by_key(|sample| sample.start);
        Ok(samples)
    }

    /// Runs the load with requests that do not wait for each other.
    async fn open(
        &self,
        every: Duration,
        end: Instant,
        tls: Option<Arc<ClientConfig>>,
    ) -> Vec<Sample> {
        let mut due = interval(every);
        let mut requests = JoinSet::new();
        let mut samples = Vec::new();
        let stopped = || self.stop.as_ref().is_some_and(|stop| *stop.borrow());
        while Instant::now() < end && !stopped() {
            due.tick().await;
            while let Some(done) = requests.try_join_next() {
                samples.extend(done);
            }
            let (load, tls) = (self.clone(), tls.clone());
            requests.spawn(async move {
                let sample = load.request(tls).await;
                if let Some(live) = &load.live {
                    // The receiver may be gone.
                    let _ = live.send(sample.clone());
                }
                sample
            });
        }
        samples.extend(requests.join_all().await);
        samples.sort_by_key(|sample: &Sample| sample.start);
        samples
    }

    async fn request(&self, tls: Option<Arc<ClientConfig>>) -> Sample {
        let start = Instant::now();
        let seen = Mutex::new(Seen::default());
        let error = match timeout(self.timeout, self.exchange(tls, start, &seen)).await {
            Ok(result) => result.err().map(|error| format!("{error:#}")),
            Err(_) => Some("timed out".to_owned()),
        };
        let Seen {
            backend,
            first,
            gap,
            ..
        } = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        Sample {
            start,
            backend,
            first,
            total: start.elapsed(),
            gap,
            error,
        }
    }

    async fn exchange(
        &self,
        tls: Option<Arc<ClientConfig>>,
        start: Instant,
        seen: &Mutex<Seen>,
    ) -> Result<()> {
        let stream = TcpStream::connect(self.target).await.context("connect")?;
        stream.set_nodelay(true)?;
        match tls {
            None => self.ask(stream, start, seen).await,
            Some(tls) => {
                let name = self.target.ip().into();
                let stream = TlsConnector::from(tls).connect(name, stream).await;
                self.ask(stream.context("shake hands")?, start, seen).await
            }
        }
    }

    async fn ask<S>(&self, stream: S, start: Instant, seen: &Mutex<Seen>) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post("/v1/chat/completions")
            .header(header::HOST, self.target.to_string())
            .header(header::CONNECTION, "close")
            .header(header::CONTENT_TYPE, "application/json");
        let content = r#"{"model":"m","stream":true,"max_tokens":10,"messages":[{"role":"user","content":"?"}]}"#;
        let request = request.body(Full::new(Bytes::from_static(content.as_bytes())))?;
        let note = |backend: Option<String>, first| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.backend = seen.backend.take().or(backend);
            seen.first = seen.first.or(first);
            if let (Some(now), Some(last)) = (first, seen.last) {
                seen.gap = seen.gap.max(now.saturating_sub(last));
            }
            seen.last = first.or(seen.last);
        };
        let answer = async {
            let mut response = sender.send_request(request).await.context("send")?;
            let backend = response
                .headers()
                .get("x-backend")
                .and_then(|name| name.to_str().ok());
            note(backend.map(str::to_owned), None);
            ensure!(
                response.status().is_success(),
                "status {}",
                response.status()
            );
            let mut tail = Vec::new();
            while let Some(frame) = response.frame().await {
                let frame = frame.context("receive")?;
                let model = frame.data_ref().and_then(|data| model(data));
                note(model, Some(start.elapsed()));
                tail.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                tail.drain(..tail.len().saturating_sub(14));
            }
            ensure!(tail == b"data: [DONE]\n\n", "the answer was cut short");
            Ok(())
        };
        // Polled in this task, so that a timeout closes the connection too.
        let (answer, connection) = tokio::join!(answer, connection);
        answer.and(connection.context("connection"))
    }
}

/// Returns the model named in a piece of an answer, which identifies an engine without a header of
/// its own.
fn model(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let (_, behind) = text.split_once("\"model\":\"")?;
    behind.split_once('"').map(|(model, _)| model.to_owned())
}

/// Observations of an exchange, even if it fails. Times are from its start.
#[derive(Default)]
struct Seen {
    backend: Option<String>,
    first: Option<Duration>,
    last: Option<Duration>,
    gap: Duration,
}
