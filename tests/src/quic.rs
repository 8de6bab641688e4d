//! QUIC servers that send their name and echo what they receive, and a client that changes its port
//! in the middle of a stream.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, RecvStream, SendStream,
    ServerConfig, TokioRuntime, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use steer_probe::quic::{CidConfig, CidGenerator};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

use crate::{netns::Namespace, process::Process, tls};

/// Application protocol of servers and clients here.
const ALPN: &[u8] = b"steer-test";
/// Number of bytes that a client sends and receives back in one piece.
const PIECE: usize = 16 * 1024;

/// A quinn server, which ends when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Server {
    /// Starts a server in a namespace, on all addresses; it listens when this returns. With a
    /// configuration its connection ids name it, otherwise they are random.
    ///
    /// It starts each stream with its name and a newline, and then echoes what it receives.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot listen.
    pub fn start_in(
        namespace: &Namespace,
        port: u16,
        name: &str,
        ids: Option<CidConfig>,
    ) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let name = format!("{name}\n");
        let thread = namespace.thread(move || {
            runtime()?.block_on(async {
                let endpoint = match listen(port, ids) {
                    Ok(endpoint) => endpoint,
                    Err(error) => return Ok(ready.send(Err(error))?),
                };
                ready.send(Ok(()))?;
                tokio::select! {
                    () = serve(&endpoint, &name) => {}
                    _ = stopped => {}
                }
                Ok(())
            })
        })?;
        listening.recv().context("the QUIC server ended")??;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Ok(Err(error) | Ok(Err(error)))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("QUIC server: {error:#}");
        }
    }
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn listen(port: u16, ids: Option<CidConfig>) -> Result<Endpoint> {
    let mut tls = Arc::unwrap_or_clone(tls::server()?);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut config = EndpointConfig::default();
    if let Some(ids) = ids {
        let generator = CidGenerator::new(ids)?;
        config.cid_generator(move || Box::new(generator.clone()));
    }
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let runtime = Arc::new(TokioRuntime);
    Ok(Endpoint::new(config, Some(server), socket, runtime)?)
}

async fn serve(endpoint: &Endpoint, name: &str) {
    while let Some(incoming) = endpoint.accept().await {
        let name = name.to_owned();
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(echo(send, receive, name.clone()));
            }
        });
    }
}

/// Ends with the client's side.
async fn echo(mut send: SendStream, mut receive: RecvStream, name: String) -> Result<()> {
    send.write_all(name.as_bytes()).await?;
    let mut buffer = vec![0; PIECE];
    while let Some(len) = receive.read(&mut buffer).await? {
        send.write_all(&buffer[..len]).await?;
    }
    Ok(())
}

/// Returns the Python with aioquic that `cargo xtask test` installed.
///
/// # Errors
///
/// Returns an error if it is missing.
pub fn python() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".toolchain");
    let python = root.join("quic/bin/python");
    ensure!(
        python.exists(),
        "no {}: `cargo xtask test` installs aioquic there",
        python.display()
    );
    Ok(python)
}

/// Starts an aioquic server in a namespace, which behaves like [`Server`]. `ids` is the output of
/// `steer cid config`; certificate and log are put into `folder`.
///
/// # Errors
///
/// Returns an error if it does not start; `folder` has its log.
pub fn start_aioquic(
    namespace: &Namespace,
    listen: SocketAddr,
    name: &str,
    ids: &str,
    folder: &Path,
) -> Result<Process> {
    let file = |suffix: &str| folder.join(format!("{name}-quic.{suffix}"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    std::fs::write(file("key"), made.signing_key.serialize_pem())?;
    std::fs::write(file("pem"), made.cert.pem())?;
    let mut server = Command::new(python()?);
    server
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/quic.py"))
        .args(["--address", &listen.ip().to_string()])
        .args(["--port", &listen.port().to_string()])
        .args(["--name", name, "--ids", ids, "--cert"])
        .arg(file("pem"))
        .arg("--key")
        .arg(file("key"))
        .stderr(std::fs::File::create(file("log"))?);
    let mut server = namespace.spawn(server)?;
    server.wait_for("ready")?;
    Ok(server)
}

/// A client with one stream to the server behind a VIP. Its namespace must outlive it.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    endpoint: Endpoint,
    // The stream ends with its connection.
    _connection: Connection,
    stream: (SendStream, RecvStream),
    server: String,
    sent: usize,
}

impl Client {
    /// Connects, and receives the server's name. Must be called in the client's namespace. The
    /// connection ends after this time without an answer.
    ///
    /// # Errors
    ///
    /// Returns an error if no server answers.
    pub fn connect(server: SocketAddr, patience: Duration) -> Result<Self> {
        let runtime = runtime()?;
        let (endpoint, connection, stream, server) = runtime.block_on(async {
            let mut tls = Arc::unwrap_or_clone(tls::client()?);
            tls.alpn_protocols = vec![ALPN.to_vec()];
            let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
            let mut transport = TransportConfig::default();
            transport.max_idle_timeout(Some(IdleTimeout::try_from(patience)?));
            config.transport_config(Arc::new(transport));
            let endpoint = Endpoint::client(SocketAddr::new(any(server), 0))?;
            let connection = endpoint.connect_with(config, server, "localhost")?.await?;
            let mut stream = connection.open_bi().await?;
            // A server learns of a stream with its first byte.
            stream.0.write_all(&pattern(0, 1)).await?;
            let name = line(&mut stream.1).await?;
            let mut first = [0];
            stream.1.read_exact(&mut first).await?;
            ensure!(first[..] == pattern(0, 1), "another byte came back");
            Ok((endpoint, connection, stream, name))
        })?;
        Ok(Self {
            runtime,
            endpoint,
            _connection: connection,
            stream,
            server,
            sent: 1,
        })
    }

    /// Returns the name of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Sends pieces and switches to another port while the first half of them is in flight; every
    /// byte must come back in order. Must be called in the client's namespace.
    ///
    /// # Errors
    ///
    /// Returns an error if the connection is lost or a byte differs.
    pub fn move_amid(&mut self, pieces: usize) -> Result<()> {
        let (send, receive) = &mut self.stream;
        let (endpoint, start) = (&self.endpoint, self.sent);
        self.sent += pieces * PIECE;
        self.runtime.block_on(async {
            let sending = async {
                for piece in 0..pieces {
                    if piece == pieces / 2 {
                        rebind(endpoint)?;
                    }
                    send.write_all(&pattern(start + piece * PIECE, PIECE))
                        .await?;
                }
                Ok(())
            };
            let receiving = async {
                let mut buffer = vec![0; PIECE];
                for piece in 0..pieces {
                    receive.read_exact(&mut buffer).await?;
                    let at = start + piece * PIECE;
                    ensure!(
                        buffer == pattern(at, PIECE),
                        "other bytes came back at {at}"
                    );
                }
                Ok(())
            };
            tokio::try_join!(sending, receiving).map(drop)
        })
    }
}

/// Switches to another port.
fn rebind(endpoint: &Endpoint) -> Result<()> {
    let local = endpoint.local_addr()?;
    let socket = UdpSocket::bind(SocketAddr::new(any(local), 0))?;
    ensure!(socket.local_addr()?.port() != local.port(), "the same port");
    Ok(endpoint.rebind(socket)?)
}

/// Returns the bytes of a stream from an offset; they differ from one kilobyte to the next.
fn pattern(at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|i| (i ^ (i >> 8)) as u8).collect()
}

/// Returns the text up to a newline, without it.
async fn line(receive: &mut RecvStream) -> Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        receive.read_exact(&mut byte).await?;
        match byte[0] {
            b'\n' => return Ok(String::from_utf8(line)?),
            byte => line.push(byte),
        }
        ensure!(line.len() < 64, "no name: {line:?}");
    }
}

/// Returns the unspecified address of the same family.
const fn any(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
