//! QUIC: which datagrams open a flow, and whose connection an open one belongs to.
//!
//! Ids that servers chose say their server (see [`cid`](crate::cid)), so that an open flow needs no
//! memory and survives a change of the client's address. What says nothing goes by its 5-tuple, as
//! TCP does. Only what all versions share is relied on (RFC 8999), but for the types of long headers
//! in versions that are known.

use crate::{
    abi::{CidKey, Config, FlowKey, Member, OPEN, QUIC, Service, service_flags},
    cid::{MAX_LEN, Server},
    decide::{decide_for, find, steered},
    fragment,
    frame::Frame,
    nat,
    process::{ENDED, Outcome, act, act_noted},
    rare::settle,
    tables::{Step, Tables},
    verdict::{DropReason, Verdict},
    wire::{Packet, Part, UDP_HEADER},
};

/// The first bit of a long header (RFC 8999 section 5.1).
const LONG: u8 = 0x80;
/// Offset of a long header's destination connection id; its length stands before it.
const LONG_ID: usize = 6;
/// Offset of a short header's.
const SHORT_ID: usize = 1;
/// QUIC version 1 (RFC 9000).
const VERSION_1: u32 = 1;
/// QUIC version 2 (RFC 9369).
const VERSION_2: u32 = 0x6b33_43cf;
/// Mixes a connection id: 2^64 divided by the golden ratio.
const ID_MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a packet says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether its header is one that opens connections.
    pub opens: bool,
    /// The member that its connection id names; 0 if it names none.
    pub member: u16,
    /// A hash of its connection id, which is never 0.
    pub id: u8,
}

impl Said {
    /// Where [`Self::id`] is in a word, whose last two bytes are [`Self::member`].
    const ID_SHIFT: u32 = 24;
    /// An id of which there is no hash.
    const NO_ID: u64 = 1 << Self::ID_SHIFT;

    /// What a packet says that is no whole datagram: QUIC is never fragmented (RFC 9000 section 14).
    pub const NOTHING: Self = Self {
        opens: false,
        member: 0,
        id: 1,
    };
}

/// How the decision learns what a packet says of its connection.
pub trait Look {
    /// Whether packets are whole ones, whose flows are looked at twice where that is needed.
    const WHOLE: bool = true;

    /// Whether TCP segments under `nat` are looked at closely here, and not left to another program.
    const JUDGES: bool = false;

    /// Whether the checksum of a TCP segment is right. Where nobody has looked at it, it is not.
    #[inline(always)]
    fn is_verified(&self) -> bool {
        false
    }

    /// The TCP sequence and acknowledgment number of a packet. `None` for fragments and ICMP errors, which prove nothing.
    #[inline(always)]
    fn numbers(&self, _packet: &Packet) -> Option<[u32; 2]> {
        None
    }

    /// What is done with a packet for a service of QUIC, if it is not decided in the same way as others.
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

    /// Whether the packet is one of QUIC, if it is for this service or class. Asked for where it matters,
    /// and not remembered: the stack is short.
    #[inline(always)]
    fn is_quic(&self, service: &Service) -> bool {
        service.flags & service_flags::QUIC != 0
    }

    /// What the packet says, which is for this service.
    #[inline(always)]
    fn look(&self, _config: &Config, _service: &Service) -> Said {
        Said::NOTHING
    }
}

/// Not here: the program for QUIC decides.
pub(crate) struct Elsewhere<'a, F>(pub(crate) &'a F);

impl<F: Frame> Look for Elsewhere<'_, F> {
    #[inline(always)]
    fn numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.numbers(self.0)
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
        tables.note(Step::Service(service.id));
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

/// Beside the usual way, which has no part in it: packets of QUIC are decided by a copy of the code, so that others
/// pay for one flag.
pub(crate) struct Beside<'a, F>(pub(crate) &'a F);

impl<F: Frame> Look for Beside<'_, F> {
    #[inline(always)]
    fn numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.numbers(self.0)
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
        let inside = Inside {
            packet,
            frame: self.0,
            tables,
            member: 0,
        };
        Some(steered(packet, tables, &inside, config, service, chosen))
    }

    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        false
    }
}

/// At nothing: of fragments and ICMP errors.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl Look for Nowhere {
    const WHOLE: bool = false;
}

/// Nothing of a packet whose member is chosen, and whose flow is checked as others are.
pub(crate) struct Plain;

impl Look for Plain {}

/// At the header of a whole packet.
struct Inside<'a, F, T> {
    packet: &'a Packet,
    frame: &'a F,
    tables: &'a T,
    /// The member that its connection id named once it was decrypted; 0 is none.
    member: u16,
}

impl<F: Frame, T: Tables> Look for Inside<'_, F, T> {
    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        true
    }

    #[inline(always)]
    fn look(&self, config: &Config, service: &Service) -> Said {
        look(
            self.packet,
            self.frame,
            self.tables,
            config,
            service,
            self.member,
        )
    }
}

/// Looks at the header of a whole packet for a service of QUIC. `decrypted` is the member that its connection id
/// named once it was decrypted, or 0.
#[inline(always)]
pub fn look<F: Frame, T: Tables>(
    packet: &Packet,
    frame: &F,
    tables: &T,
    config: &Config,
    service: &Service,
    decrypted: u16,
) -> Said {
    let at = packet.transport + UDP_HEADER;
    let header = header(packet, frame, at).unwrap_or(Header::NONE);
    // One case for the verifier here, and one below.
    let word = frame.opaque(header.0);
    let at = at + (word & Header::AT) as usize;
    let id_len = (word >> 8) as u8 as usize;
    let named = named(frame, at, id_len, tables, config, service).unwrap_or(Said::NO_ID);
    let named = if decrypted != 0 {
        named & !0xffff | u64::from(decrypted)
    } else {
        named
    };
    let word = frame.opaque((word & Header::OPENS) | named);
    Said {
        opens: word & Header::OPENS != 0,
        member: word as u16,
        id: (word >> Said::ID_SHIFT) as u8,
    }
}

/// The member that an encrypted connection id names; 0 if the id is none of those that are encrypted, or names none.
#[inline(always)]
pub fn decrypted<F: Frame, T: Tables>(
    packet: &Packet,
    frame: &F,
    tables: &T,
    config: &Config,
    service: &Service,
) -> u16 {
    let at = packet.transport + UDP_HEADER;
    let header = header(packet, frame, at).unwrap_or(Header::NONE);
    let word = frame.opaque(header.0);
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
    let right_at = frame.apart(at + 1 + cipher.right_at());
    let (Some(left), Some(right)) = (half(frame, at + 1), half(frame, right_at)) else {
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
fn half<F: Frame>(frame: &F, at: usize) -> Option<[u64; 2]> {
    let (first, last): (u64, u64) = (frame.load(at)?, frame.load(at + 8)?);
    Some([u64::from_be(first), u64::from_be(last)])
}

/// The member of a server in a service; 0 is none.
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
    tables.note(Step::ServerId(server, member));
    member
}

/// What a header says, as one word: the offset of its destination connection id, the bytes that it
/// can have (in the second byte), and whether it opens a flow.
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
        // Where it ends is the server's business; no more than this matters.
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

/// The member that a connection id names, and a hash of the id, as in [`Said`].
#[inline(always)]
fn named<F: Frame, T: Tables>(
    frame: &F,
    at: usize,
    len: usize,
    tables: &T,
    config: &Config,
    service: &Service,
) -> Option<u64> {
    let (first, next): (u8, u64) = (frame.load(at)?, frame.load(at + 1)?);
    // Clients choose ids of eight bytes at least (RFC 9000 section 7.2).
    let hash = (next ^ u64::from(first) << 56 ^ config.flow_seed).wrapping_mul(ID_MULTIPLIER);
    let hash = (hash >> 56) << Said::ID_SHIFT | Said::NO_ID;
    let server = config.cids.server(first, next, len);
    if server.len == 0 {
        return Some(hash);
    }
    Some(hash | u64::from(server_member(server, tables, service)))
}

/// Whether a client begins a connection with a long header like this. Of a version that is not known
/// any may be the first: the server answers it with those that it knows.
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

/// Decrypts the connection id of a whole packet for a service of QUIC, and leaves the packet to [`quic`].
#[inline(always)]
pub fn decrypt<F: Frame, T: Tables>(frame: &F, tables: &T) -> Outcome {
    let packet = tables.kept_packet();
    let Some(config) = tables.config() else {
        return Outcome::PASSED;
    };
    let Some(service) = find(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    Outcome::hand_over(QUIC, decrypted(&packet, frame, tables, config, service))
}

/// Does all there is to do with a whole packet for a service of QUIC. `member` is the one that its connection id
/// named once it was decrypted, or 0.
#[inline(always)]
pub fn quic<F: Frame, T: Tables>(frame: &mut F, tables: &T, member: u16) -> Outcome {
    let packet = tables.kept_packet();
    let inside = Inside {
        packet: &packet,
        frame,
        tables,
        member,
    };
    let mut chosen = None;
    let verdict = decide_for(&packet, tables, &inside, &mut chosen);
    act(frame, &packet, tables, verdict, chosen)
}

/// Sends a packet of QUIC to a member with rewritten addresses. The choice is made: connections of one
/// 5-tuple may go to several members, each with addresses and ports of its own.
#[inline(always)]
pub fn translate<F: Frame, T: Tables>(frame: &mut F, tables: &T, member: u16) -> Outcome {
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
    let part = packet.part as u8;
    match nat::known(&packet, tables, &Plain, config, service) {
        nat::Known::Decided(verdict) => {
            let outcome = act_noted(frame, &packet, tables, verdict, None, |fate, member| {
                part != Part::First as u8 || fragment::note(&packet, tables, fate, member)
            });
            if part == Part::Packet as u8 {
                outcome
            } else {
                settle(outcome)
            }
        }
        // Nobody of ours sent what the error is about.
        nat::Known::Unknown { .. } if part == Part::Quote as u8 => Outcome::PASSED,
        // It would take a port, and be dropped with it.
        nat::Known::Unknown { .. } if packet.ttl <= 1 && part == Part::Packet as u8 => ENDED,
        nat::Known::Unknown { .. } if packet.ttl <= 1 => Outcome::drop(DropReason::TtlExpired),
        nat::Known::Unknown { .. } => Outcome::hand_over(OPEN, member),
    }
}
