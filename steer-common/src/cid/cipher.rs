//! Encryption of connection ids: draft-ietf-quic-load-balancers-21 sections 5.4.1 and 5.4.2, with
//! AES-128-ECB.
//!
//! Server id and nonce of 16 bytes together are one block (single-pass). With any other length they
//! go through a Feistel network of four rounds (four-pass), whose halves overlap in one byte, by
//! four bits each, if the length is odd.

use super::{Layout, Server};
use crate::{
    abi::CidCipher,
    aes::{self, Block},
};

/// Longest half of a server id with its nonce.
const MAX_HALF: usize = 10;

/// A half of a connection id, or a block: its first eight bytes and the last eight.
pub(crate) type Half = [u64; 2];

impl CidCipher {
    /// Number of passes without encryption.
    pub(crate) const NO_PASS: u8 = 0;
    const SINGLE_PASS: u8 = 1;
    const FOUR_PASS: u8 = 4;

    /// Creates the decryption of connection ids with a key and a layout.
    pub fn new(key: &[u8; 16], layout: Layout) -> Self {
        let length = layout.server_id() + layout.nonce();
        let (passes, schedule) = if length == 16 {
            (Self::SINGLE_PASS, aes::decryption_schedule(key))
        } else if layout.nonce() >= layout.server_id() {
            // The server id is in the first half, which is complete one pass earlier.
            (Self::FOUR_PASS - 1, aes::encryption_schedule(key))
        } else {
            (Self::FOUR_PASS, aes::encryption_schedule(key))
        };
        let shape = Shape::of_length(length);
        Self {
            schedule,
            left_mask: shape.left,
            right_mask: shape.right,
            right_at: (length - shape.half) as u8,
            length: length as u8,
            server_id: layout.server_id() as u8,
            passes,
            _pad: 0,
        }
    }

    /// Returns the offset of the second half after the first octet.
    #[inline(always)]
    pub(crate) const fn right_at(&self) -> usize {
        (self.right_at & 0xf) as usize
    }

    /// Returns the length of the connection ids.
    pub(crate) const fn cid_len(&self) -> usize {
        1 + self.length as usize
    }

    /// Returns the server id, given the bytes after the first octet, and those from
    /// [`Self::right_at`] on.
    #[inline(always)]
    pub(crate) fn server_id(&self, left: Half, right: Half) -> u64 {
        let plain = if self.passes == Self::SINGLE_PASS {
            from_block(aes::decrypt(&self.schedule, to_block(left)))[0]
        } else {
            let (left, right) = (and(left, self.left_mask), and(right, self.right_mask));
            let left = self.pass(left, right, self.left_mask, 4);
            let right = self.pass(right, left, self.right_mask, 3);
            let left = self.pass(left, right, self.left_mask, 2);
            let mut plain = left[0];
            if self.passes == Self::FOUR_PASS {
                let right = self.pass(right, left, self.right_mask, 1);
                // Shifted by two bytes at least: the shortest plaintext has five.
                let bits = 8 * u32::from(self.right_at);
                let bits = if bits > 64 { 64 } else { bits };
                plain |= (right[0] >> 1) >> ((bits - 1) & 63);
            }
            plain
        };
        plain >> ((64 - 8 * u32::from(self.server_id)) & 63)
    }

    /// Transforms one half with the other.
    #[inline(always)]
    fn pass(&self, half: Half, other: Half, mask: Half, pass: u64) -> Half {
        let input = [other[0], other[1] | u64::from(self.length) << 8 | pass];
        let output = from_block(aes::encrypt(&self.schedule, to_block(input)));
        [half[0] ^ output[0] & mask[0], half[1] ^ output[1] & mask[1]]
    }

    /// Returns the server that a connection id names. `None` if it is too short.
    pub fn decode(&self, cid: &[u8]) -> Option<Server> {
        if self.passes == Self::NO_PASS || cid.len() < self.cid_len() {
            return None;
        }
        let bytes = &cid[1..self.cid_len()];
        Some(Server {
            rotation: cid[0] >> 5,
            len: self.server_id,
            id: self.server_id(words(bytes), words(&bytes[self.right_at()..])),
        })
    }
}

/// Split of a plaintext into halves.
struct Shape {
    half: usize,
    left: Half,
    right: Half,
}

impl Shape {
    fn of_length(length: usize) -> Self {
        let half = length.div_ceil(2);
        let mut left = [0_u8; 16];
        left[..half.min(MAX_HALF)].fill(0xff);
        let mut right = left;
        if !length.is_multiple_of(2) {
            left[half - 1] = 0xf0;
            right[0] = 0x0f;
        }
        Self {
            half,
            left: words(&left),
            right: words(&right),
        }
    }
}

/// Encrypts a server id with its nonce, 5 to 19 bytes.
///
/// # Panics
///
/// Panics if there are fewer, or more.
pub fn encrypt(key: &[u8; 16], plaintext: &mut [u8]) {
    let length = plaintext.len();
    assert!((5..=19).contains(&length), "{length} bytes");
    let schedule = aes::encryption_schedule(key);
    if length == 16 {
        let block = from_block(aes::encrypt(&schedule, to_block(words(plaintext))));
        plaintext.copy_from_slice(&bytes(block));
        return;
    }
    let shape = Shape::of_length(length);
    let at = length - shape.half;
    let mut left = and(words(plaintext), shape.left);
    let mut right = and(words(&plaintext[at..]), shape.right);
    let round = |half: Half, mask: Half, other: Half, pass: u64| {
        let input = [other[0], other[1] | (length as u64) << 8 | pass];
        let output = and(from_block(aes::encrypt(&schedule, to_block(input))), mask);
        [half[0] ^ output[0], half[1] ^ output[1]]
    };
    right = round(right, shape.right, left, 1);
    left = round(left, shape.left, right, 2);
    right = round(right, shape.right, left, 3);
    left = round(left, shape.left, right, 4);
    // In the shared byte the other half's four bits are zero.
    plaintext.fill(0);
    for (to, from) in plaintext.iter_mut().zip(&bytes(left)[..shape.half]) {
        *to = *from;
    }
    for (to, from) in plaintext[at..].iter_mut().zip(&bytes(right)[..shape.half]) {
        *to |= *from;
    }
}

/// Returns the first sixteen bytes, padded with zeroes.
fn words(from: &[u8]) -> Half {
    let mut block = [0; 16];
    let len = from.len().min(16);
    block[..len].copy_from_slice(&from[..len]);
    let word = |at: usize| {
        block[at..at + 8]
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    [word(0), word(8)]
}

fn bytes(half: Half) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half[0].to_be_bytes());
    bytes[8..].copy_from_slice(&half[1].to_be_bytes());
    bytes
}

#[inline(always)]
const fn and(half: Half, mask: Half) -> Half {
    [half[0] & mask[0], half[1] & mask[1]]
}

#[inline(always)]
const fn to_block(half: Half) -> Block {
    [
        (half[0] >> 32) as u32,
        half[0] as u32,
        (half[1] >> 32) as u32,
        half[1] as u32,
    ]
}

#[inline(always)]
const fn from_block(block: Block) -> Half {
    [
        (block[0] as u64) << 32 | block[1] as u64,
        (block[2] as u64) << 32 | block[3] as u64,
    ]
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::cid::{LowBits, MAX_LEN, MAX_SERVER_ID, MIN_NONCE, encode};

    fn hex(text: &str) -> Vec<u8> {
        let bytes = (0..text.len()).step_by(2);
        bytes
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// Section 5.4.2.4 and appendix B.2: key, server id, nonce, connection id without its first octet.
    const VECTORS: [[&str; 4]; 5] = [
        [
            "fdf726a9893ec05c0632d3956680baf0",
            "31441a",
            "9c69c275",
            "67947d29be054a",
        ],
        [
            "8f95f09245765f80256934e50c66207f",
            "ed793a",
            "ee080dbf",
            "20b1d07b359d3c",
        ],
        [
            "8f95f09245765f80256934e50c66207f",
            "ed793a51d49b8f5fab65",
            "ee080dbf48",
            "cc381bc74cb4fbad2823a3d1f8fed2",
        ],
        [
            "8f95f09245765f80256934e50c66207f",
            "ed793a51d49b8f5f",
            "ee080dbf48c0d1e5",
            "4dd2d05a7b0de9b2b9907afb5ecf8cc3",
        ],
        [
            "8f95f09245765f80256934e50c66207f",
            "ed793a51d49b8f5fab",
            "ee080dbf48c0d1e55d",
            "5779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
        ],
    ];

    #[test]
    fn the_vectors_of_the_draft_hold() {
        for [key, server_id, nonce, cid] in VECTORS {
            let key: [u8; 16] = hex(key).try_into().unwrap();
            let (server_id, nonce, cid) = (hex(server_id), hex(nonce), hex(cid));
            let mut plaintext = server_id.clone();
            plaintext.extend(&nonce);
            encrypt(&key, &mut plaintext);
            assert_eq!(plaintext, cid);
            // The draft also has longer server ids than ours: the first eight bytes of those are
            // compared.
            let layout = Layout {
                server_id: server_id.len().min(8) as u8,
                nonce: (cid.len() - server_id.len().min(8)) as u8,
            };
            let mut cipher = CidCipher::new(&key, layout);
            if cipher.passes == 3 && server_id.len() > nonce.len() {
                cipher.passes = CidCipher::FOUR_PASS;
            }
            let mut whole = [0x60].to_vec();
            whole.extend(&cid);
            let expected = Server::new(3, &server_id[..server_id.len().min(8)]);
            assert_eq!(cipher.decode(&whole), expected);
        }
    }

    #[test]
    fn an_id_that_is_cut_names_no_server() {
        let cipher = CidCipher::new(&[7; 16], Layout::new(4, 7).unwrap());
        assert_eq!(cipher.decode(&[0; 11]), None);
        assert!(cipher.decode(&[0; 12]).is_some());
        assert_eq!(CidCipher::default().decode(&[0; 20]), None);
    }

    prop_compose! {
        fn lengths()(id in 1..=MAX_SERVER_ID)(id in Just(id), nonce in MIN_NONCE..MAX_LEN - id)
            -> (usize, usize) { (id, nonce) }
    }

    proptest! {
        #[test]
        fn what_is_encrypted_is_decrypted(
            key: [u8; 16], (id, nonce) in lengths(), rotation in 0..7_u8, bytes: [u8; MAX_LEN],
        ) {
            let server = Server::new(rotation, &bytes[..id]).unwrap();
            let plain = encode(server, &bytes[id..id + nonce], LowBits::Random(bytes[19])).unwrap();
            let cid = plain.encrypted(&key);
            prop_assert_eq!(cid.bytes()[0], plain.bytes()[0]);
            prop_assert_eq!(cid.bytes().len(), plain.bytes().len());
            let cipher = CidCipher::new(&key, Layout::new(id, nonce).unwrap());
            prop_assert_eq!(cipher.decode(cid.bytes()), Some(server));
        }
    }
}
