//! QUIC: datagrams that open a flow, and the connection of open ones.
//!
//! Ids chosen by servers name their server (see [`cid`](crate::cid)), so that an open flow needs no
//! entry and survives a change of the client's address. A datagram that names none is steered by
//! its 5-tuple, like TCP. Only properties of all versions are relied on (RFC 8999), except for the
//! types of long headers in known versions.

use crate::{
    abi::{CidKey, Config, FlowKey, Member, NAT_CREATE, QUIC, Service, service_flags},
    cid::{MAX_LEN, Server},
    decide::{decide_for, find, steer_to_member},
    fragment,
    frame::Frame,
    nat,
    process::{Outcome, TTL_EXPIRED, apply, apply_recorded},
    rare::without_icmp_answer,
    tables::{Step, Tables},
    verdict::{DropReason, Verdict},
    wire::{Packet, PacketKind, UDP_HEADER},
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

/// Source of the connection hint for the decision.
pub trait QuicClassifier {
    /// Flag for whole packets, whose flows are re-checked if necessary.
    const IS_WHOLE: bool = true;

    /// Flag for judging TCP segments under `nat` here instead of in another program.
    const VALIDATES_TCP: bool = false;

    /// Returns whether the checksum of a TCP segment is correct. False if it was not verified.
    #[inline(always)]
    fn is_checksum_valid(&self) -> bool {
        false
    }

    /// Returns the TCP sequence and acknowledgment number of a packet. `None` for fragments and
    /// ICMP errors, which prove nothing.
    #[inline(always)]
    fn tcp_numbers(&self, _packet: &Packet) -> Option<[u32; 2]> {
        None
    }

    /// Returns the verdict for a packet of a QUIC service, if it is not decided like others.
    #[inline(always)]
    fn quic<'t, T: Tables>(
        &self,
        _packet: &Packet,
        _tables: &'t T,
        _config: &Config,
        _service: &'t Service,
        _chosen: &mut Option<&'t Member>,
    ) -> Option<Verdict> {
        None
    }

    /// Returns whether the packet is QUIC, if it is for this service or class. Computed where
    /// needed, and not stored: stack is scarce.
    #[inline(always)]
    fn is_quic(&self, service: &Service) -> bool {
        service.flags & service_flags::QUIC != 0
    }

    /// Returns the hint of the packet, which is for this service.
    #[inline(always)]
    fn connection_hint(&self, _config: &Config, _service: &Service) -> ConnectionHint {
        ConnectionHint::NONE
    }
}

/// Deferred: the program for QUIC decides.
pub(crate) struct Deferred<'a, F>(pub(crate) &'a F);

impl<F: Frame> QuicClassifier for Deferred<'_, F> {
    #[inline(always)]
    fn tcp_numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.tcp_numbers(self.0)
    }

    #[inline(always)]
    fn quic<'t, T: Tables>(
        &self,
        _packet: &Packet,
        tables: &'t T,
        config: &Config,
        service: &'t Service,
        _chosen: &mut Option<&'t Member>,
    ) -> Option<Verdict> {
        tables.trace_step(Step::Service(service.id));
        Some(if config.cids.encrypted != 0 {
            Verdict::QuicDecrypt
        } else {
            Verdict::Quic
        })
    }

    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        false
    }
}

/// Separate path: packets of QUIC are decided by a copy of the code, so that others pay for one
/// flag only.
pub(crate) struct Inline<'a, F>(pub(crate) &'a F);

impl<F: Frame> QuicClassifier for Inline<'_, F> {
    #[inline(always)]
    fn tcp_numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.tcp_numbers(self.0)
    }

    #[inline(always)]
    fn quic<'t, T: Tables>(
        &self,
        packet: &Packet,
        tables: &'t T,
        config: &Config,
        service: &'t Service,
        chosen: &mut Option<&'t Member>,
    ) -> Option<Verdict> {
        if config.cids.encrypted != 0 {
            return Some(Verdict::QuicDecrypt);
        }
        let inside = WithHeader {
            packet,
            frame: self.0,
            tables,
            member: 0,
        };
        Some(steer_to_member(
            packet, tables, &inside, config, service, chosen,
        ))
    }

    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        false
    }
}

/// For fragments and ICMP errors, whose QUIC header is not available.
#[derive(Clone, Copy, Debug)]
pub struct Opaque;

impl QuicClassifier for Opaque {
    const IS_WHOLE: bool = false;
}

/// For a packet whose member is chosen, and whose flow is checked like others.
pub(crate) struct KnownMember;

impl QuicClassifier for KnownMember {}

/// The header of a whole packet.
struct WithHeader<'a, F, T> {
    packet: &'a Packet,
    frame: &'a F,
    tables: &'a T,
    /// Member named by its decrypted connection id; 0 is none.
    member: u16,
}

impl<F: Frame, T: Tables> QuicClassifier for WithHeader<'_, F, T> {
    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        true
    }

    #[inline(always)]
    fn connection_hint(&self, config: &Config, service: &Service) -> ConnectionHint {
        read_connection_hint(
            self.packet,
            self.frame,
            self.tables,
            config,
            service,
            self.member,
        )
    }
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

/// Returns the member that a connection id names, and a hash of the id, as in [`Said`].
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

/// Decrypts the connection id of a whole packet for a QUIC service, and leaves the packet to
/// [`quic`].
#[inline(always)]
pub fn decrypt<F: Frame, T: Tables>(frame: &F, tables: &T) -> Outcome {
    let packet = tables.kept_packet();
    let Some(config) = tables.config() else {
        return Outcome::PASSED;
    };
    let Some(service) = find(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    Outcome::tail_call(
        QUIC,
        decrypted_member(&packet, frame, tables, config, service),
    )
}

/// Processes a whole packet for a QUIC service. `member` is the one named by its decrypted
/// connection id, or 0.
#[inline(always)]
pub fn quic<F: Frame, T: Tables>(frame: &mut F, tables: &T, member: u16) -> Outcome {
    let packet = tables.kept_packet();
    let inside = WithHeader {
        packet: &packet,
        frame,
        tables,
        member,
    };
    let mut chosen = None;
    let verdict = decide_for(&packet, tables, &inside, &mut chosen);
    apply(frame, &packet, tables, verdict, chosen)
}

/// Sends a packet of QUIC to a member with rewritten addresses. The choice is made: connections of
/// one 5-tuple may go to several members, each with its own addresses and ports.
#[inline(always)]
pub fn nat_quic<F: Frame, T: Tables>(frame: &mut F, tables: &T, member: u16) -> Outcome {
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = tables.kept_packet();
    let packet = Packet {
        key: FlowKey {
            member,
            ..packet.key
        },
        ..packet
    };
    tables.keep_packet(&packet);
    let Some(service) = find(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    let part = packet.kind as u8;
    match nat::lookup(&packet, tables, &KnownMember, config, service) {
        nat::Lookup::Decided(verdict) => {
            let outcome = apply_recorded(frame, &packet, tables, verdict, None, |fate, member| {
                part != PacketKind::FirstFragment as u8
                    || fragment::record(&packet, tables, fate, member)
            });
            if part == PacketKind::Whole as u8 {
                outcome
            } else {
                without_icmp_answer(outcome)
            }
        }
        // The error is about a packet that nobody behind this node sent.
        nat::Lookup::Unknown { .. } if part == PacketKind::IcmpError as u8 => Outcome::PASSED,
        // It would take a port, and be dropped with it.
        nat::Lookup::Unknown { .. } if packet.ttl <= 1 && part == PacketKind::Whole as u8 => {
            TTL_EXPIRED
        }
        nat::Lookup::Unknown { .. } if packet.ttl <= 1 => Outcome::drop(DropReason::TtlExpired),
        nat::Lookup::Unknown { .. } => Outcome::tail_call(NAT_CREATE, member),
    }
}
