//! ICMP "time exceeded in transit" (RFC 792) and ICMPv6 "hop limit exceeded in transit" (RFC 4443 section
//! 3.3).

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

/// Maximum number of quoted bytes of a packet: its headers, including its ports.
const MAX_QUOTE: usize = 128;

/// Turns a packet into the error that answers it, sent back on its path from the packet's
/// destination. Quotes whole words of it, at least 20 bytes.
#[inline(always)]
pub(crate) fn time_exceeded<F: Frame>(frame: &mut F, packet: &Packet) -> Result<(), DropReason> {
    let v6 = packet.is_v6();
    let header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
    let at = packet.network;
    let len = (packet.ip_len as usize).min(MAX_QUOTE) & !3;
    let mut sum = Sum::default();
    for index in 0..MAX_QUOTE / 4 {
        if index * 4 < len {
            sum = sum.add32(frame.load(at + index * 4).ok_or(INTERNAL)?);
        }
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
    let kind = if v6 {
        write_header(frame, packet, PROTOCOL_ICMPV6, length)?;
        sum = sum.add(pseudo_header(packet, PROTOCOL_ICMPV6, length));
        0x0300_u16.to_be()
    } else {
        write_header(frame, packet, PROTOCOL_ICMP, length)?;
        0x0b00_u16.to_be()
    };
    let checksum = sum.add16(kind).checksum();
    frame
        .store(at + header, [kind, checksum])
        .and_then(|()| frame.store(at + header + 4, 0_u32))
        .ok_or(INTERNAL)?;
    write_macs(frame, packet.macs.swapped())
}
