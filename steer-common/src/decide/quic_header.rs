//! Headers of QUIC datagrams: whether they open a connection, and the member that their connection id
//! names.
//!
//! Only properties of all versions are relied on (RFC 8999), except for the types of long headers in
//! known versions.

use crate::{
    abi::{CidKey, Config, Service},
    cid::{MAX_LEN, Server},
    frame::Frame,
    tables::{Step, Tables},
    wire::{Packet, UDP_HEADER},
};

/// The first bit of a long header (RFC 8999 section 5.1).
const LONG: u8 = 0x80;

/// Offset of a long header's destination connection id; its length precedes it.
const LONG_ID: usize = 6;

/// Offset of a short header's destination connection id.
const SHORT_ID: usize = 1;

/// QUIC version 1 (RFC 9000).
const VERSION_1: u32 = 1;

/// QUIC version 2 (RFC 9369).
const VERSION_2: u32 = 0x6b33_43cf;

/// Multiplier for mixing a connection id: 2^64 divided by the golden ratio.
const ID_MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Connection hint of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionHint {
    /// Whether its header opens connections.
    pub opens: bool,
    /// Member named by its connection id; 0 if it names none.
    pub member: u16,
    /// Hash of its connection id, never 0.
    pub id: u8,
}

impl ConnectionHint {
    /// Position of [`Self::id`] in a word, whose last two bytes are [`Self::member`].
    const ID_SHIFT: u32 = 24;
    /// Id without a hash.
    const NO_ID: u64 = 1 << Self::ID_SHIFT;

    /// Hint of a packet that is no whole datagram: QUIC is never fragmented (RFC 9000 section 14).
    pub const NONE: Self = Self {
        opens: false,
        member: 0,
        id: 1,
    };
}

/// Reads the header of a whole packet for a QUIC service. `decrypted` is the member named by its
/// decrypted connection id, or 0.
#[inline(always)]
pub fn read_connection_hint<F: Frame, T: Tables>(
    packet: &Packet,
    frame: &F,
    tables: &T,
    config: &Config,
    service: &Service,
    decrypted: u16,
) -> ConnectionHint {
    let at = packet.transport + UDP_HEADER;
    let header = header(packet, frame, at).unwrap_or(Header::NONE);
    // One case for the verifier here, and one below.
    let word = frame.launder(header.0);
    let at = at + (word & Header::AT) as usize;
    let id_len = (word >> 8) as u8 as usize;
    let named =
        named_member(frame, at, id_len, tables, config, service).unwrap_or(ConnectionHint::NO_ID);
    let named = if decrypted != 0 {
        named & !0xffff | u64::from(decrypted)
    } else {
        named
    };
    let word = frame.launder((word & Header::OPENS) | named);
    ConnectionHint {
        opens: word & Header::OPENS != 0,
        member: word as u16,
        id: (word >> ConnectionHint::ID_SHIFT) as u8,
    }
}

/// Returns the member that an encrypted connection id names; 0 if the id is not encrypted, or names
/// none.
#[inline(always)]
pub fn decrypted_member<F: Frame, T: Tables>(
    packet: &Packet,
    frame: &F,
    tables: &T,
    config: &Config,
    service: &Service,
) -> u16 {
    let at = packet.transport + UDP_HEADER;
    let header = header(packet, frame, at).unwrap_or(Header::NONE);
    let word = frame.launder(header.0);
    let at = at + (word & Header::AT) as usize;
    let id_len = (word >> 8) as u8 as usize;
    let Some(first) = frame.load::<u8>(at) else {
        return 0;
    };
    let rotation = first >> 5;
    if !config.cids.is_encrypted(rotation) {
        return 0;
    }
    let Some(cipher) = tables
        .cid_cipher(rotation)
        .filter(|c| c.cid_len() <= id_len)
    else {
        return 0;
    };
    let right_at = frame.unlink(at + 1 + cipher.right_at());
    let (Some(left), Some(right)) = (load_block(frame, at + 1), load_block(frame, right_at)) else {
        return 0;
    };
    let server = Server {
        rotation,
        len: cipher.server_id,
        id: cipher.server_id(left, right),
    };
    server_member(server, tables, service)
}

#[inline(always)]
fn load_block<F: Frame>(frame: &F, at: usize) -> Option<[u64; 2]> {
    let (first, last): (u64, u64) = (frame.load(at)?, frame.load(at + 8)?);
    Some([u64::from_be(first), u64::from_be(last)])
}

/// Returns the member of a server in a service; 0 is none.
#[inline(always)]
fn server_member<T: Tables>(server: Server, tables: &T, service: &Service) -> u16 {
    let key = CidKey {
        server_id: server.id,
        service: service.id,
        rotation: server.rotation,
        server_id_len: server.len,
        _pad: 0,
    };
    let member = tables.cid_member(&key).unwrap_or(0);
    tables.trace_step(Step::ServerId(server, member));
    member
}

/// Parsed header as one word: the offset of its destination connection id, the maximum length of
/// the id (in the second byte), and whether it opens a flow.
struct Header(u64);

impl Header {
    const AT: u64 = 7;
    const OPENS: u64 = 1 << 16;
    const NONE: Self = Self(SHORT_ID as u64);

    #[inline(always)]
    const fn new(at: usize, len: usize, opens: bool) -> Self {
        Self(at as u64 | (len as u64) << 8 | (opens as u64) << 16)
    }
}

#[inline(always)]
fn header<F: Frame>(packet: &Packet, frame: &F, at: usize) -> Option<Header> {
    let length: u16 = frame.load(packet.transport + 4)?;
    let length = (u16::from_be(length) as usize).saturating_sub(UDP_HEADER);
    let first: u8 = frame.load(at)?;
    if first & LONG == 0 {
        // Its end is up to the server; no more than this matters.
        let rest = length.saturating_sub(SHORT_ID);
        let len = if rest > MAX_LEN { MAX_LEN } else { rest };
        return Some(Header::new(SHORT_ID, len, false));
    }
    let version: u32 = frame.load(at + 1)?;
    let len: u8 = frame.load(at + LONG_ID - 1)?;
    let opens = opens_flow(first, u32::from_be(version));
    let is_whole = LONG_ID + len as usize <= length;
    let len = if is_whole { len as usize } else { 0 };
    Some(Header::new(LONG_ID, len, opens))
}

/// Returns the member that a connection id names, and a hash of the id, as in [`ConnectionHint`].
#[inline(always)]
fn named_member<F: Frame, T: Tables>(
    frame: &F,
    at: usize,
    len: usize,
    tables: &T,
    config: &Config,
    service: &Service,
) -> Option<u64> {
    let (first, next): (u8, u64) = (frame.load(at)?, frame.load(at + 1)?);
    // Clients choose ids of at least eight bytes (RFC 9000 section 7.2).
    let hash = (next ^ u64::from(first) << 56 ^ config.flow_seed).wrapping_mul(ID_MULTIPLIER);
    let hash = (hash >> 56) << ConnectionHint::ID_SHIFT | ConnectionHint::NO_ID;
    let server = config.cids.server(first, next, len);
    if server.len == 0 {
        return Some(hash);
    }
    Some(hash | u64::from(server_member(server, tables, service)))
}

/// Returns whether a client opens a connection with such a long header. With an unknown version any
/// may be the first: the server answers it with the versions that it knows.
#[inline(always)]
const fn opens_flow(first: u8, version: u32) -> bool {
    let kind = first >> 4 & 3;
    match version {
        // Initial and 0-RTT (RFC 9000 section 17.2).
        VERSION_1 => kind <= 1,
        // The same (RFC 9369 section 3.2).
        VERSION_2 => kind == 1 || kind == 2,
        // Version negotiation, which only servers send.
        0 => false,
        _ => true,
    }
}
