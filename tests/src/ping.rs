//! An ICMP echo client, so that the tests need no ping program.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::netns::Namespace;

/// Sends one echo request from a namespace and returns the round-trip time.
pub fn ping(from: &Namespace, to: IpAddr, timeout: Duration) -> Result<Duration> {
    ping_with(from, to, b"steer", timeout)
}

/// Works like [`ping`], with given content.
pub fn ping_with(
    from: &Namespace,
    to: IpAddr,
    content: &[u8],
    timeout: Duration,
) -> Result<Duration> {
    from.enter(|| echo(to, content, timeout))?
        .with_context(|| format!("ping {to} from {}", from.name()))
}

fn echo(to: IpAddr, content: &[u8], timeout: Duration) -> Result<Duration> {
    let (family, protocol, request, answer) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP, 8, 0),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128, 129),
    };
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
    ensure!(
        fd >= 0,
        "open an ICMP socket: {}",
        io::Error::last_os_error()
    );
    // SAFETY: the descriptor is new and owned by nothing else. An ICMP datagram socket takes the
    // calls of a UDP one; the kernel fills in identifier and checksum.
    let socket = unsafe { UdpSocket::from_raw_fd(fd) };
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(SocketAddr::new(to, 0))?;
    let start = Instant::now();
    socket.send(&[&[request, 0, 0, 0, 0, 0, 0, 1], content].concat())?;
    let mut buffer = vec![0; content.len() + 64];
    let length = socket.recv(&mut buffer).context("no answer")?;
    let elapsed = start.elapsed();
    ensure!(
        buffer[0] == answer && buffer[8..length] == *content,
        "not an echo answer of {} bytes: {:?}",
        content.len(),
        &buffer[..length.min(64)]
    );
    Ok(elapsed)
}
