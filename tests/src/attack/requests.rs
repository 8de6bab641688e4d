//! Short requests of clients that continue during an attack.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::sync::watch;

use crate::{
    load::{Load, Running},
    netns::Namespace,
    quic,
};

/// Interval between requests of each kind.
const EVERY: Duration = Duration::from_millis(25);
/// Interval between QUIC connections, each with a full handshake.
const QUIC_EVERY: Duration = Duration::from_millis(250);
/// Timeout of a request, on a machine with other work.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a datagram's answer, and number of attempts.
const RETRY: (Duration, usize) = (Duration::from_secs(1), 3);
/// Divisor: one in this many datagrams is longer than a frame.
const LONG: usize = 8;

/// Counts of requests and failures.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestCounts {
    /// All requests.
    pub(super) requests: usize,
    /// Reasons of failures.
    pub(super) failed: Vec<String>,
}

impl RequestCounts {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed.extend(other.failed);
    }
}

/// Requests in progress.
#[derive(Debug)]
pub(super) struct Requests {
    loads: Vec<Running>,
    stop: watch::Sender<bool>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<RequestCounts>>>,
}

impl Requests {
    /// Starts requests to chat services, each on a connection of its own.
    ///
    /// # Errors
    ///
    /// Returns an error if their threads cannot start.
    pub(super) fn start(client: &Namespace, services: &[SocketAddr]) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let loads = services.iter().map(|service| {
            let load = Load {
                every: Some(EVERY),
                duration: Duration::from_secs(3600),
                timeout: TIMEOUT,
                stop: Some(stopped.clone()),
                ..Load::new(*service)
            };
            load.start_in(client)
        });
        Ok(Self {
            loads: loads.collect::<Result<_>>()?,
            stop,
            stopped: Arc::default(),
            threads: Vec::new(),
        })
    }

    /// Adds datagrams to an echo service, each from a port of its own.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot start.
    pub(super) fn add_datagrams(&mut self, client: &Namespace, service: SocketAddr) -> Result<()> {
        self.repeat(client, EVERY, move |number| {
            let length = if number % LONG == 0 { 3000 } else { 100 };
            datagram(service, &vec![b'x'; length])
        })
    }

    /// Adds connections to a QUIC service.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot start.
    pub(super) fn add_quic(&mut self, client: &Namespace, service: SocketAddr) -> Result<()> {
        self.repeat(client, QUIC_EVERY, move |_| {
            quic::Client::connect(service, TIMEOUT).map(drop)
        })
    }

    /// Repeats another kind of request, as fast as it is answered.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread cannot start.
    pub(super) fn add_other(
        &mut self,
        from: &Namespace,
        mut request: impl FnMut() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        self.repeat(from, Duration::ZERO, move |_| request())
    }

    fn repeat(
        &mut self,
        client: &Namespace,
        every: Duration,
        mut request: impl FnMut(usize) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let stopped = self.stopped.clone();
        let thread = client.thread(move || {
            let mut tally = RequestCounts::default();
            while !stopped.load(Relaxed) {
                let start = Instant::now();
                if let Err(error) = request(tally.requests) {
                    tally.failed.push(format!("{error:#}"));
                }
                tally.requests += 1;
                thread::sleep(every.saturating_sub(start.elapsed()));
            }
            tally
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Stops, and waits for the last answers.
    ///
    /// # Errors
    ///
    /// Returns an error if a thread has failed.
    pub(super) fn finish(self) -> Result<RequestCounts> {
        self.stop.send_replace(true);
        self.stopped.store(true, Relaxed);
        let mut all = RequestCounts::default();
        for load in self.loads {
            let samples = load.finish()?;
            all.add(RequestCounts {
                requests: samples.len(),
                failed: samples.into_iter().filter_map(|s| s.error).collect(),
            });
        }
        for thread in self.threads {
            all.add(thread.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(all)
    }
}

/// Sends a datagram until it is answered.
fn datagram(service: SocketAddr, payload: &[u8]) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(service)?;
    let (patience, times) = RETRY;
    socket.set_read_timeout(Some(patience))?;
    let mut last = None;
    for _ in 0..times {
        socket.send(payload)?;
        match socket.recv(&mut [0; 256]) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    let length = payload.len();
    Err(anyhow!(
        "no answer to a datagram of {length} bytes: {last:?}"
    ))
}
