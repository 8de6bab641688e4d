//! Header checksum of packets that get an answer: a damaged packet gets none.

use crate::{
    checksum::Sum,
    frame::Frame,
    wire::{IPV4_HEADER, Packet},
};

/// Words of the longest IPv4 header.
const MAX_HEADER_WORDS: usize = 15;

/// Returns whether the checksum of an IPv4 header is correct. IPv6 has none.
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
