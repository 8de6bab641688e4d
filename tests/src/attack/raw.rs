//! Raw frames over packet sockets.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use steer_dataplane::interface_index;

use crate::netns::Namespace;

/// Maximum length of a received frame.
const FRAME: usize = 2048;
/// Interval in milliseconds between checks of whether to stop.
const LOOK_MS: i32 = 50;

/// Packet socket of one interface.
#[derive(Debug)]
pub struct Raw(OwnedFd);

impl Raw {
    /// Opens a socket that sends arbitrary frames from an interface.
    ///
    /// # Errors
    ///
    /// Returns an error without root, or if there is no such interface.
    pub fn sender(namespace: &Namespace, interface: &str) -> Result<Self> {
        Self::open(namespace, interface, 0)
    }

    fn open(namespace: &Namespace, interface: &str, protocol: u16) -> Result<Self> {
        namespace.enter(|| {
            let index = interface_index(interface)?;
            // SAFETY: socket touches no memory.
            let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
            ensure!(socket >= 0, "packet socket: {}", io::Error::last_os_error());
            // SAFETY: the descriptor is open, and nobody else has it.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            // SAFETY: an address is plain data, for which zeroes are valid.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol.to_be();
            address.sll_ifindex = i32::try_from(index)?;
            let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: the address is a whole sockaddr_ll of this length, and outlives the call.
            let result =
                unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
            ensure!(
                result == 0,
                "bind to {interface}: {}",
                io::Error::last_os_error()
            );
            Ok(Self(socket))
        })?
    }

    /// Sends a frame. It is lost if queues are full, as on any link.
    ///
    /// # Errors
    ///
    /// Returns an error if the interface is gone.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the frame's bytes are readable for its length.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
            )
        };
        let error = io::Error::last_os_error();
        let full = matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN));
        ensure!(sent >= 0 || full, "send a frame: {error}");
        Ok(())
    }

    /// Returns the next frame, or nothing after a while without one.
    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, LOOK_MS) };
        if ready <= 0 {
            return Ok(None);
        }
        // SAFETY: the buffer is writable for its length, and the sender's address is not asked for.
        let length = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        Ok(usize::try_from(length).ok().map(|length| &buffer[..length]))
    }
}

/// A thread that watches all frames of an interface until this value is dropped.
#[derive(Debug)]
pub(super) struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Returns an error without root, or if there is no such interface.
    pub(super) fn start(
        namespace: &Namespace,
        interface: &str,
        mut look: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self> {
        let raw = Raw::open(namespace, interface, libc::ETH_P_ALL as u16)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("sniffer".to_owned());
        let thread = thread.spawn(move || {
            let mut buffer = [0; FRAME];
            while !stopped.load(Relaxed) {
                match raw.receive(&mut buffer) {
                    Ok(Some(frame)) => look(frame),
                    Ok(None) => {}
                    Err(_) => return,
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread.context("start a sniffer")?),
        })
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A TCP segment over IPv4 in a frame without tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Hardware address of the destination.
    pub(super) to: [u8; 6],
    /// Source address and port.
    pub(super) source: ([u8; 4], u16),
    /// Destination address and port.
    pub(super) destination: ([u8; 4], u16),
    /// Sequence number.
    pub(super) sequence: u32,
    /// Flags.
    pub(super) flags: u8,
    /// Length of the payload.
    pub(super) payload: usize,
}

impl Segment {
    /// Parses a frame.
    #[must_use]
    pub(super) fn read(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        let is_tcp = frame[12..14] == [8, 0] && ip.first()? >> 4 == 4 && *ip.get(9)? == 6;
        if !is_tcp || ip.len() < 20 {
            return None;
        }
        let header = usize::from(ip[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let tcp = ip.get(header..)?;
        if tcp.len() < 20 {
            return None;
        }
        let word = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let address = |at: usize| [ip[at], ip[at + 1], ip[at + 2], ip[at + 3]];
        let offset = usize::from(tcp[12] >> 4) * 4;
        Some(Self {
            to: frame[..6].try_into().ok()?,
            source: (address(12), word(0)),
            destination: (address(16), word(2)),
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            flags: tcp[13],
            payload: total.saturating_sub(header + offset),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{SYN, TestPacket};

    #[test]
    fn segments_are_read_as_they_are_made() {
        let (client, vip) = (([10, 77, 0, 2], 4000), ([10, 99, 0, 1], 8080));
        let mut packet = TestPacket::tcp((client.0.into(), 4000), (vip.0.into(), 8080), SYN);
        packet.payload = vec![1; 21];
        let segment = Segment::read(&packet.bytes()).unwrap();
        assert_eq!((segment.source, segment.destination), (client, vip));
        assert_eq!((segment.flags, segment.payload), (SYN, 21));
        assert_eq!(segment.to, packet.macs[0]);
        assert_eq!(Segment::read(&packet.bytes()[..50]), None);
        let datagram = TestPacket::udp((client.0.into(), 1), (vip.0.into(), 2));
        assert_eq!(Segment::read(&datagram.bytes()), None);
    }
}
