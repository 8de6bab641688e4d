//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Values are in the byte order of the packet: the sum does not depend on it.

use crate::{
    abi::Address,
    frame::Frame,
    wire::{IPV4_HEADER, PROTOCOL_TCP, Packet},
};

/// A one's complement sum that is not folded yet, valid for billions of words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Returns the sum that belongs to the checksum of a header.
    #[inline(always)]
    pub const fn of_checksum(checksum: u16) -> Self {
        Self(!checksum as u64)
    }

    /// Adds 16 bits.
    #[inline(always)]
    pub const fn add16(self, value: u16) -> Self {
        Self(self.0 + value as u64)
    }

    /// Adds 32 bits.
    #[inline(always)]
    pub const fn add32(self, value: u32) -> Self {
        Self(self.0 + value as u64)
    }

    /// Subtracts 16 bits.
    #[inline(always)]
    pub const fn remove16(self, value: u16) -> Self {
        self.add16(!value)
    }

    /// Subtracts 32 bits.
    #[inline(always)]
    pub const fn remove32(self, value: u32) -> Self {
        self.add32(!value)
    }

    /// Adds another sum.
    #[inline(always)]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Adds the bytes of an address in headers of its family.
    #[inline(always)]
    pub const fn add_address(self, address: Address, v6: bool) -> Self {
        let [high, low] = address.words();
        // The low word of an IPv4-mapped address holds ffff before the address, which adds nothing
        // to a one's complement sum; it is skipped so that 0 stays 0.
        if v6 {
            self.add64(high).add64(low)
        } else {
            self.add32(address.v4())
        }
    }

    /// Subtracts the bytes of an address.
    #[inline(always)]
    pub const fn remove_address(self, address: Address, v6: bool) -> Self {
        let [high, low] = address.words();
        if v6 {
            self.add64(!high).add64(!low)
        } else {
            self.remove32(address.v4())
        }
    }

    const fn add64(self, value: u64) -> Self {
        Self(self.0 + (value >> 32) + (value & 0xffff_ffff))
    }

    /// Returns the checksum: the complement of the folded sum.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        Self((self.0 >> 32) + (self.0 & 0xffff_ffff)).small_checksum()
    }

    /// Returns the checksum of a sum of at most 2^15 words of 32 bits, in fewer steps.
    #[inline(always)]
    pub const fn small_checksum(self) -> u16 {
        let sum = (self.0 >> 16) + (self.0 & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        !(sum as u16)
    }
}

/// Maximum number of parts of 64 bytes that [`of_bytes`] adds up; a jumbo frame has no more.
const MAX_PARTS: usize = 144;
const PART: usize = 64;

/// Returns the sum of a number of bytes at an even offset. `None` if some are missing, or there are
/// too many for the verifier to follow.
#[inline(always)]
fn of_bytes<F: Frame>(frame: &F, at: usize, len: usize) -> Option<Sum> {
    if len >= MAX_PARTS * PART {
        return None;
    }
    // Copies that the verifier does not link to the length: the end of the loop then says nothing
    // about the code after it, which is followed once, and not for each length.
    let parts = frame.launder((len / PART) as u64) as usize;
    let mut sum = Sum::default();
    for part in 0..MAX_PARTS {
        if part >= parts {
            break;
        }
        let words: [u32; PART / 4] = frame.load(at + part * PART)?;
        for word in words {
            sum = sum.add32(word);
        }
    }
    let mut sum = Sum(frame.launder(sum.0));
    let mut at = at + (len & !(PART - 1));
    let words = frame.launder((len % PART / 4) as u64) as usize;
    for word in 0..PART / 4 - 1 {
        if word >= words {
            break;
        }
        sum = sum.add32(frame.load(at + word * 4)?);
    }
    let mut sum = Sum(frame.launder(sum.0));
    at += len & (PART - 4);
    if len & 2 != 0 {
        sum = sum.add16(frame.load(at)?);
        at += 2;
    }
    if len & 1 != 0 {
        let last: u8 = frame.load(at)?;
        sum = sum.add16(u16::from_ne_bytes([last, 0]));
    }
    Some(sum)
}

/// Returns whether the checksum of a whole TCP segment is correct (RFC 9293 section 3.1).
#[inline(always)]
pub(crate) fn is_tcp_checksum_valid<F: Frame>(frame: &F, packet: &Packet) -> bool {
    let headers = packet.transport.wrapping_sub(packet.network);
    let len = (packet.ip_len as usize).wrapping_sub(headers) & 0xffff;
    let Some(sum) = of_bytes(frame, packet.transport, len) else {
        return false;
    };
    let v6 = packet.is_v6();
    let sum = sum
        .add_address(packet.key.source, v6)
        .add_address(packet.key.destination, v6)
        .add16(u16::from(PROTOCOL_TCP).to_be())
        .add16((len as u16).to_be());
    // The complement of a correct one is zero.
    sum.checksum() == 0
}

/// Words of the longest IPv4 header.
const MAX_HEADER_WORDS: usize = 15;

/// Returns whether the checksum of an IPv4 header is correct. IPv6 has none.
#[inline(always)]
pub(crate) fn is_header_valid<F: Frame>(frame: &F, packet: &Packet) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(bytes: &[u8]) -> u16 {
        let mut sum = Sum::default();
        for pair in bytes.chunks_exact(2) {
            sum = sum.add16(u16::from_ne_bytes([pair[0], pair[1]]));
        }
        sum.checksum()
    }

    #[test]
    fn agrees_with_the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(full(&bytes).to_ne_bytes(), [!0xdd, !0xf2]);
    }

    #[test]
    fn the_short_way_is_good_for_the_largest_of_small_sums() {
        for words in [0, 1, 2, 0x7fff, 0x8000] {
            let sum = (0..words).fold(Sum::default(), |sum, _| sum.add32(u32::MAX));
            assert_eq!(sum.small_checksum(), sum.checksum(), "{words}");
        }
    }

    proptest! {
        #[test]
        fn the_short_way_is_the_same(words in proptest::collection::vec(any::<u32>(), 0..64)) {
            let sum = words.iter().fold(Sum::default(), |sum, word| sum.add32(*word));
            let folded = words.iter().fold(Sum::default(), |sum, word| {
                sum.add16(*word as u16).add16((*word >> 16) as u16)
            });
            prop_assert_eq!(sum.small_checksum(), folded.checksum());
        }

        #[test]
        fn an_update_equals_a_new_sum(
            mut bytes in proptest::collection::vec(any::<u8>(), 40),
            new: [u8; 16],
        ) {
            // The first byte of a header is not zero, so its sum never is.
            bytes[0] |= 1;
            let before = full(&bytes);
            let word = |b: &[u8], at: usize| u64::from_ne_bytes(b[at..at + 8].try_into().unwrap());
            let old = Address::from_v6([word(&bytes, 8), word(&bytes, 16)]);
            bytes[8..24].copy_from_slice(&new);
            let fresh = Address::from_v6([word(&new, 0), word(&new, 8)]);
            let updated = Sum::of_checksum(before).remove_address(old, true).add_address(fresh, true);
            prop_assert_eq!(updated.checksum(), full(&bytes));
        }
    }
}
