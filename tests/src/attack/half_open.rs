//! Handshakes with a beacon that are never completed.

use std::{
    fmt, io,
    io::IoSliceMut,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use quinn::{
    AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, Runtime as _, TokioRuntime,
    TransportConfig, UdpPoller,
    crypto::rustls::QuicClientConfig,
    udp::{RecvMeta, Transmit},
};
use steer_probe::probe::ALPN;
use tokio::runtime::Builder;

use super::turn::AttackRun;
use crate::tls;

/// Number of concurrent handshakes, and those per port.
const HANDSHAKES: usize = 1100;
const OF_A_PORT: usize = 100;
/// Interval between handshakes.
const GAP: Duration = Duration::from_millis(2);

/// A socket that receives nothing, so that its client keeps retrying.
struct DeafSocket(Arc<dyn AsyncUdpSocket>);

impl fmt::Debug for DeafSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeafSocket")
    }
}

impl AsyncUdpSocket for DeafSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.0.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Starts handshakes and keeps them half open. A client without an answer repeats its Initial,
/// which keeps the beacon's side alive.
pub(super) fn handshakes(turn: &mut AttackRun<'_>) -> Result<()> {
    let (address, port) = turn.site.beacon(0);
    let (beacon, left) = (SocketAddr::new(address.into(), port), turn.remaining());
    let namespace = &turn.site.neighbour.namespace;
    namespace.enter(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let end = tokio::time::Instant::now() + left;
            let mut endpoints = Vec::new();
            let mut open = Vec::new();
            for number in 0..HANDSHAKES {
                if number % OF_A_PORT == 0 {
                    endpoints.push(endpoint()?);
                }
                let endpoint = endpoints.last().context("there is one")?;
                open.push(endpoint.connect_with(config()?, beacon, "localhost")?);
                tokio::time::sleep(GAP).await;
            }
            tokio::time::sleep_until(end).await;
            anyhow::Ok(())
        })
    })??;
    turn.count(HANDSHAKES as u64);
    Ok(())
}

fn endpoint() -> Result<Endpoint> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let runtime = Arc::new(TokioRuntime);
    let socket = Arc::new(DeafSocket(runtime.wrap_udp_socket(socket)?));
    let config = EndpointConfig::default();
    Endpoint::new_with_abstract_socket(config, None, socket, runtime).map_err(|e| anyhow!(e))
}

fn config() -> Result<ClientConfig> {
    let mut tls = Arc::unwrap_or_clone(tls::client()?);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(None);
    config.transport_config(Arc::new(transport));
    Ok(config)
}
