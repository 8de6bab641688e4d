//! An OpenTelemetry collector that decodes requests with OpenTelemetry's own messages, and can
//! misbehave in many ways.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message as _;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use steer_probe::pki::load_credentials;
use steer_tests::netns::Namespace;

/// Behaviour of the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Normal.
    Good,
    /// Rejects some points.
    Partial,
    /// Does not answer.
    Hangs,
    /// Answers one byte at a time, forever.
    Trickles,
    /// Status 500, with a body of 100 MB.
    Fails,
    /// Status 200, with a body of 100 MB.
    Boasts,
    /// Bytes that are not HTTP.
    Mumbles,
    /// `Retry-After` of three seconds.
    Overloaded,
}

/// A request with its time.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    /// Time of arrival.
    pub(crate) at: Instant,
    /// Method, path and version.
    pub(crate) line: String,
    /// Headers in lower case.
    pub(crate) headers: String,
    /// Decoded request.
    pub(crate) request: ExportMetricsServiceRequest,
}

struct Shared {
    mood: Mutex<Mood>,
    got: Mutex<Vec<Got>>,
    open: AtomicUsize,
    most: AtomicUsize,
    over: AtomicBool,
}

/// A running collector, which ends when dropped.
pub(crate) struct Collector {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Collector {
    /// Listens in a namespace, with TLS if there is a certificate with its key.
    pub(crate) fn start(
        namespace: &Namespace,
        address: &str,
        certificate: Option<(&Path, &Path)>,
    ) -> Result<Self> {
        let tls = certificate.map(|(cert, key)| {
            let held = load_credentials(cert, key).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(held.chain, held.key);
            Arc::new(config.unwrap())
        });
        let shared = Arc::new(Shared {
            mood: Mutex::new(Mood::Good),
            got: Mutex::default(),
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let ours = Arc::clone(&shared);
        let address: SocketAddr = address.parse()?;
        let listener = namespace.enter(|| TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let thread = thread::spawn(move || {
            while !ours.over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (ours, tls) = (Arc::clone(&ours), tls.clone());
                        thread::spawn(move || ours.serve(stream, tls));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
            Ok(())
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn is_now(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// Returns all requests.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.shared.got.lock().unwrap().clone()
    }

    /// Returns the maximum number of concurrent connections.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::Relaxed)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
        let now = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        // A client that disconnects in the middle is right to do so.
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
        let _ = match tls.map(ServerConnection::new) {
            None => self.answer(stream),
            Some(Ok(tls)) => self.answer(StreamOwned::new(tls, stream)),
            Some(Err(_)) => Ok(()),
        };
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn answer(&self, stream: impl Read + Write) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let mut headers = String::new();
        while !headers.ends_with("\r\n\r\n") {
            if stream.read_line(&mut headers)? == 0 {
                return Ok(());
            }
        }
        let headers = headers.to_lowercase();
        let length = headers
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.trim().parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        self.got.lock().unwrap().push(Got {
            at: Instant::now(),
            line: line.trim().to_owned(),
            headers,
            request: ExportMetricsServiceRequest::decode(&*body).expect("messages of OTLP"),
        });
        let mood = *self.mood.lock().unwrap();
        self.behave(mood, stream.get_mut())?;
        stream.get_mut().flush()?;
        // Until the client disconnects.
        io::copy(&mut stream, &mut io::sink()).map(drop)
    }

    fn behave(&self, mood: Mood, stream: &mut impl Write) -> io::Result<()> {
        let head = |status: &str, more: &str, length: u64| {
            format!("HTTP/1.1 {status}\r\n{more}content-length: {length}\r\n\r\n")
        };
        match mood {
            Mood::Good => stream.write_all(head("200 OK", "", 0).as_bytes()),
            Mood::Partial => {
                let body = ExportMetricsServiceResponse {
                    partial_success: Some(ExportMetricsPartialSuccess {
                        rejected_data_points: 2,
                        error_message: "two are too many".to_owned(),
                    }),
                };
                let body = body.encode_to_vec();
                stream.write_all(head("200 OK", "", body.len() as u64).as_bytes())?;
                stream.write_all(&body)
            }
            Mood::Hangs => Ok(()),
            Mood::Trickles => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
                while !self.over.load(Ordering::Relaxed) {
                    stream.write_all(b"x")?;
                    stream.flush()?;
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            }
            Mood::Fails => huge(stream, &head("500 No", "", 100 << 20)),
            Mood::Boasts => huge(stream, &head("200 OK", "", 100 << 20)),
            Mood::Mumbles => stream.write_all(b"\0\0mumble\r\n\r\n"),
            Mood::Overloaded => {
                stream.write_all(head("503 Busy", "retry-after: 3\r\n", 0).as_bytes())
            }
        }
    }
}

fn huge(stream: &mut impl Write, head: &str) -> io::Result<()> {
    stream.write_all(head.as_bytes())?;
    io::copy(&mut File::open("/dev/zero")?.take(100 << 20), stream).map(drop)
}
