//! A fake engine over real sockets, scripted by tests.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::*;

/// Reaction to a request.
#[derive(Clone, Debug)]
pub(super) enum Script {
    Page(String),
    Status(u16),
    /// This status, with `Retry-After`.
    Busy(u16),
    /// The page is at `/metrics/`.
    Moved,
    Cut,
    Silence,
    /// This body, one byte at a time.
    Trickle(String),
    /// The beginning of an answer, and nothing after it.
    Begun(String),
    /// A page of this many megabytes.
    Huge(usize),
    Close,
}

/// Reaction for each path, and the requests so far.
#[derive(Debug, Default)]
struct Shared {
    scripts: Mutex<BTreeMap<String, Script>>,
    /// Requests: connection and path.
    requests: Mutex<Vec<(usize, String)>>,
    connections: AtomicUsize,
    is_closed: AtomicBool,
    changed: Notify,
}

/// A running fake engine.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Fake {
    pub(super) async fn start(page: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let fake = Self {
            address,
            shared: shared.clone(),
        };
        fake.says("/metrics", Script::Page(page.to_owned()));
        fake.says("/v1/completions", Script::Page("{}".to_owned()));
        tokio::spawn(async move {
            loop {
                if shared.is_closed.load(Ordering::Relaxed) {
                    shared.changed.notified().await;
                    continue;
                }
                let (stream, _) = listener.accept().await.unwrap();
                let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, number, shared.clone()));
            }
        });
        fake
    }

    /// Sets the reaction for a path.
    pub(super) fn says(&self, path: &str, script: Script) {
        self.shared
            .scripts
            .lock()
            .unwrap()
            .insert(path.to_owned(), script);
    }

    /// Stops accepting new connections; the kernel still completes them.
    pub(super) fn stops_accepting(&self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
    }

    /// Returns the connections on which a path was requested.
    pub(super) fn asked(&self, path: &str) -> Vec<usize> {
        let requests = self.shared.requests.lock().unwrap();
        let of_path = requests.iter().filter(|(_, other)| other == path);
        of_path.map(|(connection, _)| *connection).collect()
    }

    pub(super) fn watch(
        &self,
        engine: Engine,
        adapt: impl FnOnce(&mut EngineConfig),
    ) -> EngineWatch {
        let mut config = EngineConfig {
            profile: Profile::built_in(engine).unwrap(),
            metrics: self.address,
            api: self.address,
            key: None,
            every: Duration::from_millis(20),
            stall: Duration::from_secs(3600),
            silence: Duration::from_secs(3600),
            completion: Some(Duration::from_secs(3600)),
            capacity: None,
            limit: None,
        };
        if let Some(completion) = &mut config.profile.completion {
            completion.models = None;
        }
        adapt(&mut config);
        EngineWatch::start(config)
    }
}

async fn serve(mut stream: TcpStream, number: usize, shared: Arc<Shared>) {
    let mut held = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => held.extend_from_slice(&buffer[..n]),
            _ => return,
        }
        let text = String::from_utf8_lossy(&held).into_owned();
        let Some(end) = text.find("\r\n\r\n") else {
            continue;
        };
        let mut lines = text.lines();
        let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |l| l.parse().unwrap());
        if held.len() < end + 4 + length {
            continue;
        }
        held.clear();
        let script = shared.scripts.lock().unwrap().get(&path).cloned();
        shared.requests.lock().unwrap().push((number, path));
        if answer(&mut stream, script.unwrap_or(Script::Status(404)))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Answers a request; `None` if the connection ends with it.
async fn answer(stream: &mut TcpStream, script: Script) -> Option<()> {
    let (status, body, more, header) = match script {
        Script::Page(body) => (200, body, 0, ""),
        Script::Status(status) => (status, String::new(), 0, ""),
        Script::Busy(status) => (status, String::new(), 0, "retry-after: 1\r\n"),
        Script::Moved => (307, String::new(), 0, "location: /metrics/\r\n"),
        Script::Cut => (200, "a 1\n".to_owned(), 100, ""),
        Script::Begun(body) => (200, body, 1000, ""),
        Script::Trickle(body) => {
            let head = format!("HTTP/1.1 200 X\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.ok()?;
            for byte in body.as_bytes() {
                stream.write_all(&[*byte]).await.ok()?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            return Some(());
        }
        Script::Huge(megabytes) => {
            let length = megabytes << 20;
            let head = format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok()?;
            let line = "vllm:num_requests_running 1\n".repeat(1 << 10);
            for _ in 0..length / line.len() {
                stream.write_all(line.as_bytes()).await.ok()?;
            }
            return None;
        }
        Script::Silence => std::future::pending().await,
        Script::Close => return None,
    };
    let length = body.len() + more;
    let head = format!("HTTP/1.1 {status} X\r\n{header}content-length: {length}\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).await.ok()?;
    if more == 1000 {
        std::future::pending::<()>().await;
    }
    (more == 0).then_some(())
}
