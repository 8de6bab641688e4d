//! A connected UDP socket for QUIC that reports ICMP errors.
//!
//! On a connected socket the kernel reports them only for packets of the same 4-tuple. An attacker
//! who guesses the port can still forge them, so they are a reason to probe at once and never close
//! a connection (RFC 9000 section 14.2.1, RFC 8085 section 5.2).

use std::future::Future;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// Number of attempts to send a packet: the system may return an ICMP error about an earlier packet
/// instead, and does not send then.
const SEND_ATTEMPTS: u32 = 4;

/// Counter of errors from the network that the peer is unreachable.
pub(super) type Unreachable = watch::Receiver<u64>;

#[derive(Debug)]
struct Connected {
    io: UdpSocket,
    state: UdpSocketState,
    unreachable: watch::Sender<u64>,
}

/// Opens a socket to `peer` with a port of its own.
pub(super) fn connect(peer: SocketAddr) -> io::Result<(Arc<dyn AsyncUdpSocket>, Unreachable)> {
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(peer)?;
    socket.set_nonblocking(true)?;
    let state = UdpSocketState::new((&socket).into())?;
    one_by_one(&socket)?;
    let (unreachable, seen) = watch::channel(0);
    Ok((
        Arc::new(Connected {
            io: UdpSocket::from_std(socket)?,
            state,
            unreachable,
        }),
        seen,
    ))
}

/// Disables UDP_GRO: replies arrive one by one, and quinn would keep a buffer of three megabytes
/// for each socket.
fn one_by_one(socket: &std::net::UdpSocket) -> io::Result<()> {
    let off: libc::c_int = 0;
    // SAFETY: the value of the option is an int, and pointer and size match.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const off).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Connected {
    fn record_error(&self, error: &io::Error) {
        let kind = error.kind();
        if is_unreachable(kind) {
            self.unreachable.send_modify(|count| *count += 1);
        } else {
            tracing::debug!(%error, "probe socket");
        }
    }
}

/// Returns whether an error of this kind concerns the path to the peer and not this machine.
pub(super) fn is_unreachable(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

impl AsyncUdpSocket for Connected {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        for _ in 0..SEND_ATTEMPTS {
            // quinn-udp takes "fragmentation needed" for an answer to this packet, and drops it.
            if let Some(error) = self.io.take_error()? {
                self.record_error(&error);
            }
            let sent = self.io.try_io(Interest::WRITABLE, || {
                self.state.try_send((&self.io).into(), transmit)
            });
            match sent {
                Err(e) if e.kind() != ErrorKind::WouldBlock => self.record_error(&e),
                sent => return sent,
            }
        }
        // For QUIC this is one lost packet.
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), bufs, meta)
            });
            match received {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => self.record_error(&e),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        1
    }
}

/// Wait of one task until the socket can send again.
struct Poller {
    socket: Arc<Connected>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let socket = &this.socket;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let done = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(done)
    }
}
