//! UDP and TCP servers that answer everything with their name and the peer's address.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime;
use tokio::sync::oneshot;

use crate::netns::Namespace;

/// A running server for both protocols on one address, which ends when dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Echo {
    /// Starts a server in a namespace; it listens when this returns.
    ///
    /// It answers each datagram, and each piece of a stream, with `NAME PEER` and a newline.
    pub fn start_in(namespace: &Namespace, address: SocketAddr, name: &str) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let name = name.to_owned();
        let thread = namespace.thread(move || {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let sockets = bind(address).await;
                let (sockets, result) = match sockets {
                    Ok(sockets) => (Some(sockets), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                ready.send(result)?;
                let Some((udp, tcp)) = sockets else {
                    return Ok(());
                };
                tokio::select! {
                    result = datagrams(&udp, &name) => result,
                    result = connections(&tcp, &name) => result,
                    _ = stopped => Ok(()),
                }
            })
        })?;
        listening.recv().context("the echo server ended")??;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Ok(Err(error) | Ok(Err(error)))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("echo server: {error:#}");
        }
    }
}

async fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(address)
        .await
        .with_context(|| format!("bind UDP {address}"))?;
    let tcp = TcpListener::bind(address)
        .await
        .with_context(|| format!("bind TCP {address}"))?;
    Ok((udp, tcp))
}

async fn datagrams(socket: &UdpSocket, name: &str) -> Result<()> {
    let mut buffer = [0; 2048];
    loop {
        // An error here reports an earlier answer that could not be delivered.
        let Ok((_, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        drop(socket.send_to(identity(name, peer).as_bytes(), peer).await);
    }
}

async fn connections(listener: &TcpListener, name: &str) -> Result<()> {
    loop {
        let (stream, peer) = listener.accept().await?;
        tokio::spawn(connection(stream, identity(name, peer)));
    }
}

async fn connection(mut stream: TcpStream, identity: String) {
    let mut buffer = [0; 2048];
    while stream
        .read(&mut buffer)
        .await
        .is_ok_and(|length| length > 0)
    {
        if stream.write_all(identity.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn identity(name: &str, peer: SocketAddr) -> String {
    format!("{name} {peer}\n")
}
