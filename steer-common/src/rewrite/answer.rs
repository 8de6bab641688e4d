//! IP header of a packet that answers another.

use super::write::{INTERNAL, store};
use crate::{
    checksum::Sum,
    frame::Frame,
    verdict::DropReason,
    wire::{IPV4_HEADER, Packet},
};

const TTL: u8 = 64;

/// Writes the header at the offset of the packet's IP header, with its addresses exchanged, for
/// `length` bytes of a protocol.
#[inline(always)]
pub(super) fn write_header<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    protocol: u8,
    length: u16,
) -> Result<(), DropReason> {
    let (from, to) = (packet.key.destination, packet.key.source);
    let at = packet.network;
    if packet.is_v6() {
        let second = u32::from(length) << 16 | u32::from(protocol) << 8 | u32::from(TTL);
        store(frame, at, [0x6000_0000_u32.to_be(), second.to_be()])?;
        store(frame, at + 8, from.words())?;
        return store(frame, at + 24, to.words());
    }
    let words = [
        0x4500_u16.to_be(),
        (IPV4_HEADER as u16 + length).to_be(),
        0,
        0x4000_u16.to_be(),
        u16::from_be_bytes([TTL, protocol]).to_be(),
    ];
    let sum = words
        .iter()
        .fold(Sum::default(), |sum, word| sum.add16(*word))
        .add_address(from, false)
        .add_address(to, false);
    frame.store(at, words).ok_or(INTERNAL)?;
    store(frame, at + 10, sum.checksum())?;
    store(frame, at + 12, [from.v4(), to.v4()])
}

/// Returns the sum of its pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline(always)]
pub(super) fn pseudo_header(packet: &Packet, protocol: u8, length: u16) -> Sum {
    let v6 = packet.is_v6();
    Sum::default()
        .add_address(packet.key.destination, v6)
        .add_address(packet.key.source, v6)
        .add16(length.to_be())
        .add16(u16::from(protocol).to_be())
}
