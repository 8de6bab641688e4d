//! IP in IP (RFC 2003), IP in IPv6 (RFC 2473), and both after a UDP header (Generic UDP
//! Encapsulation, variant 1 of draft-ietf-intarea-gue-09).

use super::{
    link::{Link, relink},
    write::INTERNAL,
};
use crate::{
    abi::{Address, Config, Member, Mode},
    checksum::Sum,
    frame::Frame,
    hash,
    tables::{NextHop, Tables},
    verdict::DropReason,
    wire::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER, IPV6_HEADER, PROTOCOL_ICMPV6, PROTOCOL_IPV4,
        PROTOCOL_IPV6, PROTOCOL_UDP, Packet, PacketKind,
    },
};

/// TTL of outer headers (RFC 1700's default).
const TTL: u8 = 64;
const UDP_HEADER: usize = 8;
/// First of the dynamic ports (RFC 6335 section 6), which GUE uses as source.
const DYNAMIC: u16 = 0xc000;

/// Returns the number of bytes added to a packet for a member.
#[inline(always)]
pub(crate) const fn overhead(member: &Member) -> u32 {
    overhead_of(member.mode, member.family)
}

/// Returns the overhead of a mode by its number, because the verifier does not follow an enum.
#[inline(always)]
const fn overhead_of(mode: u8, family: u8) -> u32 {
    let udp = if mode == Mode::Gue as u8 {
        UDP_HEADER
    } else if mode == Mode::Ipip as u8 {
        0
    } else {
        return 0;
    };
    let ip = if family == 6 {
        IPV6_HEADER
    } else {
        IPV4_HEADER
    };
    (ip + udp) as u32
}

/// Returns whether [`overhead_of`] agrees with the table of modes.
const fn agrees_with_table() -> bool {
    let mut index = 0;
    while index < Mode::ALL.len() {
        let mode = Mode::ALL[index];
        let found = [overhead_of(mode as u8, 4), overhead_of(mode as u8, 6)];
        if found[0] != mode.overhead(false) || found[1] != mode.overhead(true) {
            return false;
        }
        index += 1;
    }
    true
}
const _: () = assert!(agrees_with_table());

/// Adds `outer` bytes of headers to a packet for its member.
#[inline(always)]
pub(crate) fn encap<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    member: &Member,
    hop: &NextHop,
    outer: u32,
) -> Result<(), DropReason> {
    let config = tables.config().ok_or(INTERNAL)?;
    if member.family == 6 {
        wrap_v6(frame, packet, config, member, hop, outer)
    } else {
        wrap_v4(frame, packet, config, member, hop, outer)
    }
}

#[inline(always)]
fn wrap_v4<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    config: &Config,
    member: &Member,
    hop: &NextHop,
    outer: u32,
) -> Result<(), DropReason> {
    let total = packet.ip_len + outer;
    if total > 0xffff {
        return Err(DropReason::TooBig);
    }
    let (id, inside) = if packet.is_v6() {
        (0x4000_u32.to_be(), PROTOCOL_IPV6)
    } else {
        let id: u32 = frame.load(packet.network + 4).ok_or(INTERNAL)?;
        // The inner identification serves the outer header as well: it distinguishes the packets of
        // one source. Of the flags only "don't fragment" is copied.
        (id & 0xffff_4000_u32.to_be(), PROTOCOL_IPV4)
    };
    let is_gue = member.mode == Mode::Gue as u8;
    let protocol = if is_gue { PROTOCOL_UDP } else { inside };
    let mut hash = 0;
    let mut source = config.outer_v4.v4();
    if is_gue || config.outer_v4_bits != 0 {
        hash = hash::flow(&packet.key, config.flow_seed) as u32;
        source |= low_bits(hash, config.outer_v4_bits).to_be();
    }
    lower_ttl(frame, packet)?;
    let link = Link::to_hop(hop);
    let at = relink(frame, packet.network, outer as usize, &link, ETHERTYPE_IPV4)?;
    let first = u16::from_be_bytes([0x45, packet.tos]).to_be();
    let length = (total as u16).to_be();
    let ttl = u16::from_be_bytes([TTL, protocol]).to_be();
    let sum = Sum::default()
        .add16(first)
        .add16(length)
        .add32(id)
        .add16(ttl)
        .add32(source)
        .add_address(member.address, false);
    let words = [
        pair(first, length),
        id,
        pair(ttl, sum.small_checksum()),
        source,
        member.address.v4(),
    ];
    frame.store(at, words).ok_or(INTERNAL)?;
    if is_gue {
        let udp = [
            (hash as u16 | DYNAMIC).to_be(),
            config.gue_port.to_be(),
            ((total - IPV4_HEADER as u32) as u16).to_be(),
            // No checksum, which RFC 768 allows: the inner packet has its own.
            0,
        ];
        frame.store(at + IPV4_HEADER, udp).ok_or(INTERNAL)?;
    }
    Ok(())
}

#[inline(always)]
fn wrap_v6<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    config: &Config,
    member: &Member,
    hop: &NextHop,
    outer: u32,
) -> Result<(), DropReason> {
    let payload = packet.ip_len + outer - IPV6_HEADER as u32;
    if payload > 0xffff {
        return Err(DropReason::TooBig);
    }
    let is_gue = member.mode == Mode::Gue as u8;
    let protocol = if is_gue {
        PROTOCOL_UDP
    } else if packet.is_v6() {
        PROTOCOL_IPV6
    } else {
        PROTOCOL_IPV4
    };
    // A flow label lets the network spread flows over paths (RFC 6438).
    let hash = hash::flow(&packet.key, config.flow_seed) as u32;
    let [high, low] = config.outer_v6.words();
    let own = u64::from(low_bits(hash, config.outer_v6_bits));
    let source = Address::from_v6([high, low | own.to_be()]);
    lower_ttl(frame, packet)?;
    let inside = if is_gue { sum(frame, packet) } else { None };
    let link = Link::to_hop(hop);
    let at = relink(frame, packet.network, outer as usize, &link, ETHERTYPE_IPV6)?;
    let first = 6 << 28 | u32::from(packet.tos) << 20 | hash & 0xf_ffff;
    let second = payload << 16 | u32::from(protocol) << 8 | u32::from(TTL);
    frame
        .store(at, [first.to_be(), second.to_be()])
        .and_then(|()| frame.store(at + 8, source.words()))
        .and_then(|()| frame.store(at + 24, member.address.words()))
        .ok_or(INTERNAL)?;
    if is_gue {
        let length = (payload as u16).to_be();
        let ports = [(hash as u16 | DYNAMIC).to_be(), config.gue_port.to_be()];
        let checksum = inside.map_or(0, |inside| {
            let sum = inside
                .add_address(source, true)
                .add_address(member.address, true)
                .add16(u16::from(PROTOCOL_UDP).to_be())
                .add16(length)
                .add16(length)
                .add16(ports[0])
                .add16(ports[1]);
            match sum.checksum() {
                0 => 0xffff,
                checksum => checksum,
            }
        });
        let udp = [ports[0], ports[1], length, checksum];
        frame.store(at + IPV6_HEADER, udp).ok_or(INTERNAL)?;
    }
    Ok(())
}

/// Returns the sum over a whole packet from its headers alone: the bytes under a checksum add up to
/// the complement of its pseudo header ("local checksum offload" of Linux). `None` if no checksum
/// covers them all; the outer checksum is omitted then (RFC 6935).
#[inline(always)]
fn sum<F: Frame>(frame: &F, packet: &Packet) -> Option<Sum> {
    let is_icmp_error = packet.kind as u8 == PacketKind::IcmpError as u8;
    if packet.kind as u8 != PacketKind::Whole as u8 && !is_icmp_error {
        return None;
    }
    let header = packet.transport - packet.network;
    let length = ((packet.ip_len as usize - header) as u16).to_be();
    if !is_icmp_error && !packet.is_tcp() && frame.load::<u16>(packet.transport + 6)? == 0 {
        return None;
    }
    if !packet.is_v6() {
        // Nothing of the header remains, including its options; and ICMP uses no pseudo header.
        if is_icmp_error {
            return Some(Sum::default());
        }
        return Some(
            Sum::default()
                .remove_address(packet.key.source, false)
                .remove_address(packet.key.destination, false)
                .remove16(u16::from(packet.key.protocol).to_be())
                .remove16(length),
        );
    }
    if header != IPV6_HEADER {
        return None;
    }
    let protocol = if is_icmp_error {
        PROTOCOL_ICMPV6
    } else {
        packet.key.protocol
    };
    // Addresses and length are in the header and in the pseudo header.
    let [first, second]: [u16; 2] = frame.load(packet.network)?;
    let last: u16 = frame.load(packet.network + 6)?;
    Some(
        Sum::default()
            .add16(first)
            .add16(second)
            .add16(last)
            .remove16(u16::from(protocol).to_be()),
    )
}

/// Returns the low-order bits of a hash.
#[inline(always)]
const fn low_bits(hash: u32, bits: u8) -> u32 {
    (hash as u64 & ((1 << (bits & 0x3f)) - 1)) as u32
}

/// Joins two halves in memory order to one word.
#[inline(always)]
const fn pair(first: u16, second: u16) -> u32 {
    (u16::from_le(first) as u32 | (u16::from_le(second) as u32) << 16).to_le()
}

/// Decrements a TTL above 1, as forwarding requires, into a tunnel as well (RFC 2003 section 3.1,
/// RFC 2473 section 3.1).
#[inline(always)]
pub(super) fn lower_ttl<F: Frame>(frame: &mut F, packet: &Packet) -> Result<(), DropReason> {
    if packet.is_v6() {
        return frame
            .store(packet.network + 7, packet.ttl - 1)
            .ok_or(INTERNAL);
    }
    let at = packet.network + 8;
    let checksum: u16 = frame.load(at + 2).ok_or(INTERNAL)?;
    // One less in the upper byte of a word is one more there in the checksum (RFC 1141).
    let sum = u32::from(checksum) + u32::from(0x0100_u16.to_be());
    let sum = sum + u32::from(sum >= 0xffff);
    frame
        .store(at, packet.ttl - 1)
        .and_then(|()| frame.store(at + 2, sum as u16))
        .ok_or(INTERNAL)
}
