//! Connections of clients that stay open during an attack: streamed answers, and idle connections
//! that wait for their next request.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{fleet::wait, netns::Namespace};

/// Time for a connection to start, on a machine with other work.
const BEGIN: Duration = Duration::from_secs(20);
/// Silence after an attack from which a stream counts as broken: longer than three retransmissions.
const SILENCE: Duration = Duration::from_secs(10);
const STREAM: &str = concat!(
    "POST /v1/chat/completions HTTP/1.1\r\nhost: chat\r\ncontent-type: application/json\r\n",
    "content-length: 71\r\n\r\n",
    r#"{"model":"m","stream":true,"max_completion_tokens":90000,"messages":[]}"#
);
const PAGE: &str = "GET /health HTTP/1.1\r\nhost: chat\r\n\r\n";

/// Connections to open to a service.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// Address of the service.
    pub target: SocketAddr,
    /// Number of streamed answers.
    pub streams: usize,
    /// Number of idle connections.
    pub waiting: usize,
}

/// State of a connection, as its client sees it.
#[derive(Clone, Debug)]
pub struct ConnectionState {
    /// Local address of the client.
    pub local: Option<SocketAddr>,
    /// Address of the service.
    pub target: SocketAddr,
    /// Time at which the client last received something.
    pub last: Option<Instant>,
    /// Reason of its end, if it has ended.
    pub error: Option<String>,
}

type Shared = Arc<Mutex<Vec<ConnectionState>>>;

/// All connections in progress.
#[derive(Debug)]
pub struct Streams {
    seen: Shared,
    ask: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Streams {
    /// Opens connections from a namespace, and waits until each has received something.
    ///
    /// # Errors
    ///
    /// Returns an error if one does not start.
    pub fn open(client: &Namespace, connections: &[Connections]) -> Result<Self> {
        let seen = Shared::default();
        let (ask, asked) = watch::channel(false);
        let (stop, mut stopped) = watch::channel(false);
        let (shared, connections) = (seen.clone(), connections.to_vec());
        let thread = client.thread(move || {
            runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(async {
                    let mut tasks = JoinSet::new();
                    for connections in connections {
                        for number in 0..connections.streams + connections.waiting {
                            let one = Connection::register(&shared, connections.target);
                            let waits = (number >= connections.streams).then(|| asked.clone());
                            tasks.spawn(one.run(waits));
                        }
                    }
                    // Returns when the other end of the switch is gone, too.
                    drop(stopped.changed().await);
                });
            Ok(())
        })?;
        let streams = Self {
            seen,
            ask,
            stop,
            thread: Some(thread),
        };
        wait(BEGIN, "all connections are answered", || {
            let seen = streams.states();
            if let Some(error) = seen.iter().find_map(|one| one.error.clone()) {
                bail!("a connection did not begin: {error}");
            }
            Ok(!seen.is_empty() && seen.iter().all(|one| one.last.is_some()))
        })?;
        Ok(streams)
    }

    /// Returns the state of each connection.
    #[must_use]
    pub fn states(&self) -> Vec<ConnectionState> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends requests on the idle connections, and gives all of them time to continue. Returns the
    /// reasons of those that broke.
    ///
    /// # Errors
    ///
    /// Returns an error if the clients' thread has failed.
    pub fn finish(mut self) -> Result<Vec<String>> {
        let since = Instant::now();
        self.ask.send_replace(true);
        let goes_on =
            |one: &ConnectionState| one.error.is_some() || one.last.is_some_and(|at| at > since);
        // A connection that is still silent is counted below.
        drop(wait(SILENCE, "all go on", || {
            Ok(self.states().iter().all(goes_on))
        }));
        let broken = self.states().into_iter().filter_map(|one| {
            let silent = one.last.is_none_or(|at| at <= since);
            let silent = silent.then(|| "silent".to_owned());
            let why = one.error.or(silent)?;
            let local = one
                .local
                .map_or_else(String::new, |local| local.to_string());
            Some(format!("{local} to {}: {why}", one.target))
        });
        let broken = broken.collect();
        self.end()?;
        Ok(broken)
    }

    fn end(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result?,
            Some(Err(_)) => bail!("the streams' thread panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// Parameters of one connection.
struct Connection {
    shared: Shared,
    index: usize,
    target: SocketAddr,
}

impl Connection {
    fn register(shared: &Shared, target: SocketAddr) -> Self {
        let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(ConnectionState {
            local: None,
            target,
            last: None,
            error: None,
        });
        Self {
            index: seen.len() - 1,
            target,
            shared: shared.clone(),
        }
    }

    fn record(&self, change: impl FnOnce(&mut ConnectionState)) {
        let mut seen = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut seen[self.index]);
    }

    /// Streams, or sends a request, waits and sends another one.
    async fn run(self, waits: Option<watch::Receiver<bool>>) {
        let result = match waits {
            None => self.stream().await,
            Some(asked) => self.wait(asked).await,
        };
        if let Err(error) = result {
            self.record(|seen| seen.error = Some(format!("{error:#}")));
        }
    }

    async fn connect(&self) -> Result<TcpStream> {
        let connection = timeout(BEGIN, TcpStream::connect(self.target)).await??;
        let local = connection.local_addr()?;
        self.record(|seen| seen.local = Some(local));
        Ok(connection)
    }

    async fn stream(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        connection.write_all(STREAM.as_bytes()).await?;
        loop {
            self.read(&mut connection).await?;
        }
    }

    async fn wait(&self, mut asked: watch::Receiver<bool>) -> Result<()> {
        let mut connection = self.connect().await?;
        connection.write_all(PAGE.as_bytes()).await?;
        self.read(&mut connection).await?;
        asked.wait_for(|asked| *asked).await?;
        connection.write_all(PAGE.as_bytes()).await?;
        self.read(&mut connection).await?;
        // Stays open until all are done.
        std::future::pending().await
    }

    async fn read(&self, connection: &mut TcpStream) -> Result<()> {
        let mut buffer = [0; 4096];
        let length = connection.read(&mut buffer).await?;
        ensure!(length > 0, "closed by the other end");
        self.record(|seen| seen.last = Some(Instant::now()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_body_is_as_long_as_it_says() {
        let (head, body) = STREAM.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
    }
}
