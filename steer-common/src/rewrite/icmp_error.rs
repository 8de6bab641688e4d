//! ICMP errors that answer a packet: "fragmentation needed" (RFC 792, RFC 1191) and ICMPv6 "packet too big" (RFC 4443
//! section 3.2); "time exceeded in transit" (RFC 792) and ICMPv6 "hop limit exceeded in transit" (RFC 4443 section 3.3).

use super::{
    answer::{pseudo_header, write_header},
    link::write_macs,
    write::{INTERNAL, ethertype},
};
use crate::{
    checksum::Sum,
    frame::Frame,
    verdict::DropReason,
    wire::{ICMP_HEADER, IPV4_HEADER, IPV6_HEADER, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Packet},
};

/// Bytes of a packet that are quoted at most: its headers with many options, and with them its ports.
const MAX_QUOTE: usize = 128;

/// Type and code of an error, in the order of the packet, and the four bytes behind the checksum.
struct Message {
    kind: u16,
    rest: u32,
}

/// Turns a packet that is too big into the error that answers it, from the address that it was for.
#[inline(always)]
pub(crate) fn too_big<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    mtu: u32,
) -> Result<(), DropReason> {
    let message = if packet.is_v6() {
        Message {
            kind: 0x0200_u16.to_be(),
            rest: mtu.to_be(),
        }
    } else {
        Message {
            kind: 0x0304_u16.to_be(),
            rest: (mtu & 0xffff).to_be(),
        }
    };
    write_error(frame, packet, &message)
}

/// Turns a packet whose TTL ends into the error that answers it, from the packet's destination.
#[inline(always)]
pub(crate) fn time_exceeded<F: Frame>(frame: &mut F, packet: &Packet) -> Result<(), DropReason> {
    let kind = if packet.is_v6() { 0x0300 } else { 0x0b00_u16 };
    let message = Message {
        kind: kind.to_be(),
        rest: 0,
    };
    write_error(frame, packet, &message)
}

/// Turns a packet into the error that answers it, sent back the way it came. Whole words of it are quoted, 20 bytes at
/// least.
#[inline(always)]
fn write_error<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    message: &Message,
) -> Result<(), DropReason> {
    let v6 = packet.is_v6();
    let header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
    let at = packet.network;
    let len = (packet.ip_len as usize).min(MAX_QUOTE) & !3;
    let mut sum = Sum::default();
    // A copy that the verifier does not link to the length: where the loop ends says nothing of what follows.
    let words = frame.launder((len / 4) as u64) as usize;
    for index in 0..MAX_QUOTE / 4 {
        if index >= words {
            break;
        }
        sum = sum.add32(frame.load(at + index * 4).ok_or(INTERNAL)?);
    }
    let tags: [u32; 2] = frame.load(12).ok_or(INTERNAL)?;
    frame.truncate(at + len).ok_or(INTERNAL)?;
    frame
        .grow_head(header + ICMP_HEADER)
        .ok_or(DropReason::NoHeadroom)?;
    frame.store(12, tags[0]).ok_or(INTERNAL)?;
    if at > 16 {
        frame.store(16, tags[1]).ok_or(INTERNAL)?;
    }
    frame
        .store(at - 2, ethertype(packet).to_be())
        .ok_or(INTERNAL)?;
    let length = (ICMP_HEADER + len) as u16;
    if v6 {
        write_header(frame, packet, PROTOCOL_ICMPV6, length)?;
        sum = sum.add(pseudo_header(packet, PROTOCOL_ICMPV6, length));
    } else {
        write_header(frame, packet, PROTOCOL_ICMP, length)?;
    }
    let checksum = sum.add16(message.kind).add32(message.rest).checksum();
    frame
        .store(at + header, [message.kind, checksum])
        .and_then(|()| frame.store(at + header + 4, message.rest))
        .ok_or(INTERNAL)?;
    write_macs(frame, packet.macs.swapped())
}
