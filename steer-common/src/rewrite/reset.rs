//! Resets in answer to TCP segments (RFC 9293 section 3.10.7.1).

use super::{
    answer::{pseudo_header, write_header},
    link::{Link, relink, write_macs},
    write::{INTERNAL, ethertype},
};
use crate::{
    abi::ClientNextHop,
    frame::Frame,
    verdict::{DropReason, Endpoints},
    wire::{ACK, FIN, IPV4_HEADER, IPV6_HEADER, PROTOCOL_TCP, Packet, RST, SYN},
};

const TCP_HEADER: usize = 20;

/// Turns a segment into the reset that answers it, sent back on its path.
#[inline(always)]
pub(crate) fn reset<F: Frame>(frame: &mut F, packet: &Packet) -> Result<(), DropReason> {
    let [sequence, acknowledged]: [u32; 2] = frame.load(packet.transport + 4).ok_or(INTERNAL)?;
    let offset: u8 = frame.load(packet.transport + 12).ok_or(INTERNAL)?;
    let header_len = u32::from(offset >> 4) * 4;
    let payload = packet
        .ip_len
        .wrapping_sub((packet.transport - packet.network) as u32)
        .wrapping_sub(header_len);
    let (sequence, acknowledgment, flags) = if packet.tcp_flags & ACK != 0 {
        (acknowledged, 0, RST)
    } else {
        let flag = |flag: u8| u32::from(packet.tcp_flags & flag != 0);
        let next = u32::from_be(sequence)
            .wrapping_add(payload)
            .wrapping_add(flag(SYN))
            .wrapping_add(flag(FIN));
        (0, next.to_be(), RST | ACK)
    };
    write_reset(frame, packet, [sequence, acknowledgment], flags)?;
    write_macs(frame, packet.macs.swapped())
}

/// Turns a backend's segment into a reset that its client accepts as the backend's own.
#[inline(always)]
pub(crate) fn reset_client<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    ends: &Endpoints,
    back: &ClientNextHop,
) -> Result<(), DropReason> {
    let numbers: [u32; 2] = frame.load(packet.transport + 4).ok_or(INTERNAL)?;
    let flags = RST | packet.tcp_flags & ACK;
    // As if the client had sent the segment to answer.
    let asked = Packet {
        key: ends.reverse_key(&packet.key, 0),
        ..*packet
    };
    write_reset(frame, &asked, numbers, flags)?;
    relink(
        frame,
        packet.network,
        0,
        &Link::back(back),
        ethertype(packet),
    )
    .map(drop)
}

/// Turns a packet into one to its source with nothing but a TCP header.
#[inline(always)]
fn write_reset<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    [sequence, acknowledgment]: [u32; 2],
    flags: u8,
) -> Result<(), DropReason> {
    let v6 = packet.is_v6();
    let header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
    let at = packet.network;
    frame.truncate(at + header + TCP_HEADER).ok_or(INTERNAL)?;
    let length = TCP_HEADER as u16;
    write_header(frame, packet, PROTOCOL_TCP, length)?;

    let ports = [
        packet.key.destination_port.to_be(),
        packet.key.source_port.to_be(),
    ];
    let control = u16::from_be_bytes([(TCP_HEADER as u8 / 4) << 4, flags]).to_be();
    let sum = pseudo_header(packet, PROTOCOL_TCP, length)
        .add16(ports[0])
        .add16(ports[1])
        .add32(sequence)
        .add32(acknowledgment)
        .add16(control);
    let at = at + header;
    frame
        .store(at, ports)
        .and_then(|()| frame.store(at + 4, [sequence, acknowledgment]))
        .and_then(|()| frame.store(at + 12, [control, 0, sum.checksum(), 0]))
        .ok_or(INTERNAL)
}
