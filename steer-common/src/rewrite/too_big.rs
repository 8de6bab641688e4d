//! ICMP "fragmentation needed" (RFC 792, RFC 1191) and ICMPv6 "packet too big" (RFC 4443 section
//! 3.2).

use super::{
    INTERNAL,
    answer::{pseudo_header, write_header},
    ethertype, write_macs,
};
use crate::{
    checksum::Sum,
    frame::Frame,
    icmp::ICMP_HEADER,
    verdict::DropReason,
    wire::{IPV4_HEADER, IPV6_HEADER, PROTOCOL_ICMP, PROTOCOL_ICMPV6, Packet},
};

/// Number of quoted bytes of the packet: its headers with many options, and less than any packet
/// that is too big.
const QUOTE: usize = 128;

/// Turns a packet into the error that answers it, sent back on its path from the packet's
/// destination.
#[inline(always)]
pub(crate) fn too_big<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    mtu: u32,
) -> Result<(), DropReason> {
    let v6 = packet.is_v6();
    let header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
    let at = packet.network;
    let mut quote = Sum::default();
    for index in 0..QUOTE / 4 {
        quote = quote.add32(frame.load(at + index * 4).ok_or(INTERNAL)?);
    }
    let tags: [u32; 2] = frame.load(12).ok_or(INTERNAL)?;
    frame.truncate(at + QUOTE).ok_or(INTERNAL)?;
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
    let length = (ICMP_HEADER + QUOTE) as u16;
    let (kind, rest) = if v6 {
        write_header(frame, packet, PROTOCOL_ICMPV6, length)?;
        quote = quote.add(pseudo_header(packet, PROTOCOL_ICMPV6, length));
        (0x0200_u16.to_be(), mtu.to_be())
    } else {
        write_header(frame, packet, PROTOCOL_ICMP, length)?;
        (0x0304_u16.to_be(), (mtu & 0xffff).to_be())
    };
    let checksum = quote.add16(kind).add32(rest).checksum();
    frame
        .store(at + header, [kind, checksum])
        .and_then(|()| frame.store(at + header + 4, rest))
        .ok_or(INTERNAL)?;
    write_macs(frame, packet.macs.swapped())
}
