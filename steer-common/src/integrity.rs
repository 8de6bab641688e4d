//! Checksums of what is answered: a packet that was damaged, or made by somebody who does not know how, gets
//! no answer.

use crate::{
    checksum::Sum,
    frame::Frame,
    wire::{IPV4_HEADER, PROTOCOL_TCP, Packet},
};

/// Words of the longest IPv4 header.
const MAX_HEADER_WORDS: usize = 15;
/// Words of the longest segment whose checksum is looked at: longer than frames where XDP runs in the driver.
const MAX_SEGMENT_WORDS: usize = 1024;

/// Returns whether the checksum of an IPv4 header is right. IPv6 has none.
#[inline(always)]
pub(crate) fn header_is_intact<F: Frame>(frame: &F, packet: &Packet) -> bool {
    if packet.is_v6() {
        return true;
    }
    let at = packet.network;
    let Some(first) = frame.load::<u8>(at) else {
        return false;
    };
    let words = usize::from(first & 0x0f);
    let mut sum = Sum::default();
    for index in 0..MAX_HEADER_WORDS {
        if index * 4 >= IPV4_HEADER && index >= words {
            break;
        }
        let Some(word) = frame.load(at + index * 4) else {
            return false;
        };
        sum = sum.add32(word);
    }
    sum.small_checksum() == 0
}

/// Returns whether the checksum of a TCP segment is right (RFC 9293 section 3.1). That of one that is too long to
/// look at is not.
#[inline(always)]
pub(crate) fn segment_is_intact<F: Frame>(frame: &F, packet: &Packet) -> bool {
    let at = packet.transport;
    let headers = (packet.transport - packet.network) as u32;
    let Some(length) = packet.ip_len.checked_sub(headers) else {
        return false;
    };
    let length = length as usize & 0xffff;
    if length / 4 > MAX_SEGMENT_WORDS {
        return false;
    }
    let v6 = packet.is_v6();
    let mut sum = Sum::default()
        .add_address(packet.key.destination, v6)
        .add_address(packet.key.source, v6)
        .add16((length as u16).to_be())
        .add16(u16::from(PROTOCOL_TCP).to_be());
    // A copy that the verifier does not link to the length: where the loop ends says nothing of what follows.
    let words = frame.opaque((length / 4) as u64) as usize;
    for index in 0..MAX_SEGMENT_WORDS {
        if index >= words {
            break;
        }
        let Some(word) = frame.load(at + index * 4) else {
            return false;
        };
        sum = sum.add32(word);
    }
    let mut rest = at + (length & !3);
    if length & 2 != 0 {
        let Some(word) = frame.load(rest) else {
            return false;
        };
        sum = sum.add16(word);
        rest += 2;
    }
    if length & 1 != 0 {
        let Some(byte) = frame.load::<u8>(rest) else {
            return false;
        };
        sum = sum.add16(u16::from_ne_bytes([byte, 0]));
    }
    sum.checksum() == 0
}
