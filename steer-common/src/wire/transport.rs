//! TCP (RFC 9293) and UDP (RFC 768).

use super::protocol::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::frame::Frame;

/// TCP flag: the sender has no more data.
pub const FIN: u8 = 0x01;
/// TCP flag: synchronize sequence numbers.
pub const SYN: u8 = 0x02;
/// TCP flag: reset.
pub const RST: u8 = 0x04;
/// TCP flag: the acknowledgment number is valid.
pub const ACK: u8 = 0x10;

const TCP_HEADER: usize = 20;
/// Length of a UDP header.
pub(crate) const UDP_HEADER: usize = 8;

pub(crate) struct Transport {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) flags: u8,
    pub(crate) header_len: usize,
    /// Whether the header is complete, and its own length is possible.
    pub(crate) complete: bool,
}

impl Transport {
    /// Parses a transport header. `None` for another protocol, or if the ports are cut off; with
    /// `WHOLE` also if the header is incomplete.
    #[inline(always)]
    pub(crate) fn parse<F: Frame, const WHOLE: bool>(
        frame: &F,
        protocol: u8,
        at: usize,
    ) -> Option<Self> {
        if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
            return None;
        }
        let ports: [u16; 2] = frame.load(at)?;
        let (flags, header_len, complete) = if protocol == PROTOCOL_TCP {
            match frame.load::<u64>(at + 12) {
                Some(rest) => {
                    let [offset, flags, ..] = rest.to_ne_bytes();
                    let len = usize::from(offset >> 4) * 4;
                    (flags, len, len >= TCP_HEADER)
                }
                None => (0, TCP_HEADER, false),
            }
        } else {
            let length: Option<u16> = frame.load(at + 4);
            let whole = frame.load::<u16>(at + 6).is_some();
            let possible = length.is_some_and(|len| usize::from(u16::from_be(len)) >= UDP_HEADER);
            (0, UDP_HEADER, whole && possible)
        };
        if WHOLE && !complete {
            return None;
        }
        Some(Self {
            source: u16::from_be(ports[0]),
            destination: u16::from_be(ports[1]),
            flags,
            header_len,
            complete,
        })
    }
}
