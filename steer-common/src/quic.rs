//! QUIC: which datagrams open a flow, and whose connection an open one belongs to.
//!
//! Ids that servers chose say their server (see [`cid`](crate::cid)), so that an open flow needs no
//! memory and survives a change of the client's address. What says nothing goes by its 5-tuple, as
//! TCP does. Only what all versions share is relied on (RFC 8999), but for the types of long headers
//! in versions that are known.

use crate::{
    abi::{CidKey, Config, FlowKey, Member, OPEN, Service, TOO_BIG, service_flags},
    cid::MAX_LEN,
    decide::{decide_for, find, steered},
    fragment,
    frame::Frame,
    icmp, nat,
    process::{Outcome, act, fate},
    tables::{Step, Tables},
    verdict::{DropReason, Verdict},
    wire::{self, Network, PROTOCOL_UDP, Packet, Part, UDP_HEADER, parse},
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

/// What a packet says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Whether its header is one that opens connections.
    pub opens: bool,
    /// The member that its connection id names; 0 if it names none.
    pub member: u16,
}

impl Said {
    /// What a packet says that is no whole datagram: QUIC is never fragmented (RFC 9000 section 14).
    pub const NOTHING: Self = Self {
        opens: false,
        member: 0,
    };
}

/// How the decision learns what a packet says of its connection.
pub trait Look {
    /// Whether packets are whole ones, whose flows are looked at twice where that is needed.
    const WHOLE: bool = true;

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
pub(crate) struct Elsewhere;

impl Look for Elsewhere {
    #[inline(always)]
    fn quic<'t, T: Tables>(
        &self,
        _packet: &Packet,
        tables: &'t T,
        _config: &Config,
        service: &'t Service,
        _chosen: &mut Option<&'t Member>,
    ) -> Option<Verdict> {
        tables.note(Step::Service(service.id));
        Some(Verdict::Quic)
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
    fn quic<'t, T: Tables>(
        &self,
        packet: &Packet,
        tables: &'t T,
        config: &Config,
        service: &'t Service,
        chosen: &mut Option<&'t Member>,
    ) -> Option<Verdict> {
        let inside = Inside {
            packet,
            frame: self.0,
            tables,
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

/// At the header of a whole packet.
struct Inside<'a, F, T> {
    packet: &'a Packet,
    frame: &'a F,
    tables: &'a T,
}

impl<F: Frame, T: Tables> Look for Inside<'_, F, T> {
    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        true
    }

    #[inline(always)]
    fn look(&self, config: &Config, service: &Service) -> Said {
        look(self.packet, self.frame, self.tables, config, service)
    }
}

/// Looks at the header of a whole packet for a service of QUIC.
#[inline(always)]
pub fn look<F: Frame, T: Tables>(
    packet: &Packet,
    frame: &F,
    tables: &T,
    config: &Config,
    service: &Service,
) -> Said {
    let at = packet.transport + UDP_HEADER;
    let header = header(packet, frame, at).unwrap_or(Header::NONE);
    // One case for the verifier here, and one below.
    let word = frame.opaque(header.0);
    let at = at + (word & Header::AT) as usize;
    let id_len = (word >> 8) as u8 as usize;
    let member = member(frame, at, id_len, tables, config, service).unwrap_or(0);
    let word = frame.opaque((word & Header::OPENS) | u64::from(member));
    Said {
        opens: word & Header::OPENS != 0,
        member: word as u16,
    }
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

/// The member that a connection id names.
#[inline(always)]
fn member<F: Frame, T: Tables>(
    frame: &F,
    at: usize,
    len: usize,
    tables: &T,
    config: &Config,
    service: &Service,
) -> Option<u16> {
    let (first, next): (u8, u64) = (frame.load(at)?, frame.load(at + 1)?);
    let server = config.cids.server(first, next, len);
    if server.len == 0 {
        return None;
    }
    let key = CidKey {
        server_id: server.id,
        service: service.id,
        rotation: server.rotation,
        server_id_len: server.len,
        _pad: 0,
    };
    let member = tables.cid_member(&key);
    tables.note(Step::ServerId(server, member.unwrap_or(0)));
    member
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

/// Does all there is to do with a whole packet for a service of QUIC.
#[inline(always)]
pub fn quic<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse(frame, interface) else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = packet.hidden(frame);
    let inside = Inside {
        packet: &packet,
        frame,
        tables,
    };
    let mut member = None;
    let verdict = decide_for(&packet, tables, &inside, &mut member);
    act(frame, &packet, tables, verdict, member)
}

/// Sends a packet of QUIC to a member with rewritten addresses. The choice is made: connections of one
/// 5-tuple may go to several members, each with addresses and ports of its own.
#[inline(always)]
pub fn translate<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    member: u16,
) -> Outcome {
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let Some(network) = wire::network(frame) else {
        return Outcome::drop(DropReason::Internal);
    };
    let network = network.hidden(frame);
    let Some(packet) = any(frame, interface, &network) else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = Packet {
        key: FlowKey {
            member,
            ..packet.key
        },
        ..packet
    };
    let Some(service) = find(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    let part = packet.part as u8;
    match nat::known(&packet, tables, config, service) {
        nat::Known::Decided(verdict) => {
            if part == Part::First as u8
                && let Some((fate, member)) = fate(&verdict)
                && !fragment::note(network.id, &packet, tables, fate, member)
            {
                return Outcome::drop(DropReason::FlowTableFull);
            }
            let outcome = act(frame, &packet, tables, verdict, None);
            let is_too_big = outcome.is_handed_over() && outcome.program() == TOO_BIG;
            if part != Part::Packet as u8 && is_too_big {
                return Outcome::drop(DropReason::TooBig);
            }
            outcome
        }
        // Nobody of ours sent what the error is about.
        nat::Known::Unknown { .. } if part == Part::Quote as u8 => Outcome::PASSED,
        // It would take a port, and be dropped with it.
        nat::Known::Unknown { .. } if packet.ttl <= 1 => Outcome::drop(DropReason::TtlExpired),
        nat::Known::Unknown { .. } => Outcome::hand_over(OPEN, member),
    }
}

/// A whole datagram, the first fragment of one, or the packet of a flow that an ICMP error stands for.
#[inline(always)]
fn any<F: Frame>(frame: &F, interface: u32, network: &Network) -> Option<Packet> {
    let packet = if network.is_fragment || network.protocol == PROTOCOL_UDP {
        Packet {
            part: if network.is_fragment {
                Part::First
            } else {
                Part::Packet
            },
            ..wire::packet(frame, interface, network)?
        }
    } else {
        icmp::quote(frame, interface, network)?
    };
    // One case for the verifier instead of one for each kind.
    let word = frame.opaque((packet.quoted as u64) << 8 | packet.part as u64);
    Some(Packet {
        quoted: (word >> 8) as usize & 0x7fff,
        part: match word & 0xff {
            0 => Part::Packet,
            1 => Part::First,
            _ => Part::Quote,
        },
        tcp_flags: 0,
        ..packet.hidden(frame)
    })
}
