//! Listening sockets of this machine, queried by sock_diag(7).
//!
//! The query opens no connection, so the backend does not notice it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG: libc::c_int = 4;
/// `SOCK_DIAG_BY_FAMILY`, for requests and answers.
const BY_FAMILY: u16 = 20;
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of the header plus `struct inet_diag_req_v2`.
const REQUEST: usize = HEADER + 56;

/// Netlink socket for the queries.
#[derive(Debug)]
pub(super) struct Listeners(OwnedFd);

impl Listeners {
    /// Opens the socket.
    ///
    /// # Errors
    ///
    /// Returns an error if the system refuses, for instance because of a filter of address
    /// families.
    pub(super) fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: creates a descriptor, or fails.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, SOCK_DIAG) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Returns whether a TCP socket listens at an address. `None` if the kernel does not answer.
    pub(super) fn listens(&self, address: SocketAddr) -> Option<bool> {
        let request = request(address);
        // SAFETY: the pointer and length are those of the request.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                request.as_ptr().cast(),
                request.len(),
                libc::MSG_DONTWAIT,
            )
        };
        if sent < 0 {
            return None;
        }
        let mut answer = [0_u8; 1024];
        // The kernel has answered by the time `send` returns.
        // SAFETY: the pointer and length are those of the buffer.
        let len = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                answer.as_mut_ptr().cast(),
                answer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        interpret(answer.get(..usize::try_from(len).ok()?)?)
    }
}

/// Encodes a request for the socket that accepts connections to this address.
fn request(address: SocketAddr) -> [u8; REQUEST] {
    let (family, ip) = match address.ip() {
        IpAddr::V4(v4) => {
            // A connection to the unspecified address goes to this machine.
            let v4 = if v4.is_unspecified() {
                Ipv4Addr::LOCALHOST
            } else {
                v4
            };
            (libc::AF_INET, v4.octets().to_vec())
        }
        IpAddr::V6(v6) => {
            let v6 = if v6.is_unspecified() {
                Ipv6Addr::LOCALHOST
            } else {
                v6
            };
            (libc::AF_INET6, v6.octets().to_vec())
        }
    };
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    let body = &mut bytes[HEADER..];
    body[0] = family as u8;
    body[1] = libc::IPPROTO_TCP as u8;
    body[4..8].copy_from_slice(&(1_u32 << LISTEN).to_ne_bytes());
    body[8..10].copy_from_slice(&address.port().to_be_bytes());
    body[12..12 + ip.len()].copy_from_slice(&ip);
    // Any cookie matches.
    body[48..56].fill(0xff);
    bytes
}

/// Returns whether an answer reports a listening socket.
fn interpret(answer: &[u8]) -> Option<bool> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind == BY_FAMILY {
        return Some(*answer.get(HEADER + 1)? == LISTEN);
    }
    if i32::from(kind) != libc::NLMSG_ERROR {
        return None;
    }
    let error = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    (error == -libc::ENOENT).then_some(false)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_listens_is_known_and_what_has_gone_is_not() {
        let listeners = Listeners::open().unwrap();
        for (bind, ask) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            // A socket for both families.
            ("[::]:0", "127.0.0.1"),
            ("[::]:0", "::"),
        ] {
            let listener = TcpListener::bind(bind).unwrap();
            let port = listener.local_addr().unwrap().port();
            let address = SocketAddr::new(ask.parse().unwrap(), port);
            assert_eq!(listeners.listens(address), Some(true), "{bind} {ask}");
            drop(listener);
            assert_eq!(listeners.listens(address), Some(false), "{bind} {ask}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_says_nothing() {
        let whole = {
            let mut answer = vec![0; HEADER + 4];
            answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
            answer[HEADER + 1] = LISTEN;
            answer
        };
        assert_eq!(interpret(&whole), Some(true));
        for len in 0..=HEADER + 1 {
            assert_eq!(interpret(&whole[..len]), None, "{len}");
        }
    }
}
