//! AES-128 (FIPS 197) over single blocks, for the encryption of connection ids.
//!
//! Blocks are four columns, each a number in network byte order. Rounds are table look-ups; the BPF
//! program keeps the tables in its read-only data. Their timing depends on the data as far as
//! caches reveal it: see the threat model.

/// A block, or a round key: four columns.
pub type Block = [u32; 4];

/// Rounds of AES-128.
const ROUNDS: usize = 10;
/// Round keys of AES-128.
pub const ROUND_KEYS: usize = ROUNDS + 1;
/// Round keys in the order in which rounds use them.
pub type Schedule = [Block; ROUND_KEYS];

/// Doubles an element of GF(2^8) (FIPS 197 section 4.2.1).
const fn double(x: u8) -> u8 {
    (x << 1) ^ ((x >> 7) * 0x1b)
}

/// Multiplies two elements of GF(2^8).
const fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        product ^= a * (b & 1);
        a = double(a);
        b >>= 1;
    }
    product
}

const SBOX: [u8; 256] = sbox();
static INVERSE_SBOX: [u8; 256] = inverse_sbox();
/// SubBytes and MixColumns of a byte in the first row; other rows are rotations of it.
static ENCRYPT: [u32; 256] = encrypt_table();
/// InvSubBytes and InvMixColumns of a byte in the first row.
static DECRYPT: [u32; 256] = decrypt_table();

const fn sbox() -> [u8; 256] {
    let mut table = [0; 256];
    // 3 generates the group, and `inverse` follows its reciprocal.
    let (mut x, mut inverse): (u8, u8) = (1, 1);
    loop {
        table[x as usize] = affine(inverse);
        x = multiply(x, 3);
        // 0xf6 is the reciprocal of 3.
        inverse = multiply(inverse, 0xf6);
        if x == 1 {
            break;
        }
    }
    table[0] = affine(0);
    table
}

const fn affine(x: u8) -> u8 {
    x ^ x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4) ^ 0x63
}

const fn inverse_sbox() -> [u8; 256] {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        table[SBOX[x] as usize] = x as u8;
        x += 1;
    }
    table
}

const fn encrypt_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        let s = SBOX[x];
        table[x] = u32::from_be_bytes([double(s), s, s, double(s) ^ s]);
        x += 1;
    }
    table
}

const fn decrypt_table() -> [u32; 256] {
    let inverse = inverse_sbox();
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        table[x] = inverse_mix(inverse[x]);
        x += 1;
    }
    table
}

/// InvMixColumns of a byte in the first row.
const fn inverse_mix(x: u8) -> u32 {
    u32::from_be_bytes([
        multiply(x, 14),
        multiply(x, 9),
        multiply(x, 13),
        multiply(x, 11),
    ])
}

const fn inverse_mix_column(column: u32) -> u32 {
    let [a, b, c, d] = column.to_be_bytes();
    inverse_mix(a)
        ^ inverse_mix(b).rotate_right(8)
        ^ inverse_mix(c).rotate_right(16)
        ^ inverse_mix(d).rotate_right(24)
}

/// Expands a key for [`encrypt`] (FIPS 197 section 5.2).
pub const fn encryption_schedule(key: &[u8; 16]) -> Schedule {
    let mut words = [0_u32; 4 * ROUND_KEYS];
    let mut at = 0;
    while at < 4 {
        words[at] = u32::from_be_bytes([
            key[4 * at],
            key[4 * at + 1],
            key[4 * at + 2],
            key[4 * at + 3],
        ]);
        at += 1;
    }
    let mut constant: u8 = 1;
    while at < words.len() {
        let mut word = words[at - 1];
        if at % 4 == 0 {
            let [a, b, c, d] = word.to_be_bytes();
            word = u32::from_be_bytes([
                SBOX[b as usize] ^ constant,
                SBOX[c as usize],
                SBOX[d as usize],
                SBOX[a as usize],
            ]);
            constant = double(constant);
        }
        words[at] = words[at - 4] ^ word;
        at += 1;
    }
    let mut schedule = [[0; 4]; ROUND_KEYS];
    let mut at = 0;
    while at < words.len() {
        schedule[at / 4][at % 4] = words[at];
        at += 1;
    }
    schedule
}

/// Expands a key for [`decrypt`]: the equivalent inverse cipher (FIPS 197 section 5.3.5).
pub const fn decryption_schedule(key: &[u8; 16]) -> Schedule {
    let forward = encryption_schedule(key);
    let mut schedule = [[0; 4]; ROUND_KEYS];
    let mut round = 0;
    while round < ROUND_KEYS {
        let mut column = 0;
        while column < 4 {
            let word = forward[ROUNDS - round][column];
            schedule[round][column] = if round == 0 || round == ROUNDS {
                word
            } else {
                inverse_mix_column(word)
            };
            column += 1;
        }
        round += 1;
    }
    schedule
}

/// Encrypts a block.
#[inline(always)]
pub fn encrypt(schedule: &Schedule, block: Block) -> Block {
    // The table's second byte is the S-box.
    let sbox = |x: u8| (ENCRYPT[x as usize] >> 8) as u8;
    let shifted = |[a, b, c, d]: Block| [[a, b, c, d], [b, c, d, a], [c, d, a, b], [d, a, b, c]];
    rounds(schedule, block, &ENCRYPT, sbox, shifted)
}

/// Decrypts a block.
#[inline(always)]
pub fn decrypt(schedule: &Schedule, block: Block) -> Block {
    let sbox = |x: u8| INVERSE_SBOX[x as usize];
    // Rows are shifted the other way.
    let shifted = |[a, b, c, d]: Block| [[a, d, c, b], [b, a, d, c], [c, b, a, d], [d, c, b, a]];
    rounds(schedule, block, &DECRYPT, sbox, shifted)
}

/// All rounds of the cipher or its inverse. `shifted` returns the columns whose rows a column of the next state is made
/// of, for each of the four.
#[inline(always)]
fn rounds(
    schedule: &Schedule,
    block: Block,
    table: &[u32; 256],
    sbox: impl Fn(u8) -> u8 + Copy,
    shifted: impl Fn(Block) -> [Block; 4],
) -> Block {
    let mut state = add(block, &schedule[0]);
    let mut round = 1;
    while round < ROUNDS {
        let [first, second, third, last] = shifted(state);
        let mixed = [
            mix(table, first),
            mix(table, second),
            mix(table, third),
            mix(table, last),
        ];
        state = add(mixed, &schedule[round]);
        round += 1;
    }
    let [first, second, third, last] = shifted(state);
    let substituted = [
        substitute(sbox, first),
        substitute(sbox, second),
        substitute(sbox, third),
        substitute(sbox, last),
    ];
    add(substituted, &schedule[ROUNDS])
}

#[inline(always)]
fn add(block: Block, key: &Block) -> Block {
    [
        block[0] ^ key[0],
        block[1] ^ key[1],
        block[2] ^ key[2],
        block[3] ^ key[3],
    ]
}

/// One column of a round: the first row of `a`, the second of `b`, and so on.
#[inline(always)]
fn mix(table: &[u32; 256], [a, b, c, d]: Block) -> u32 {
    table[(a >> 24) as u8 as usize]
        ^ table[(b >> 16) as u8 as usize].rotate_right(8)
        ^ table[(c >> 8) as u8 as usize].rotate_right(16)
        ^ table[d as u8 as usize].rotate_right(24)
}

/// One column of the last round, which mixes nothing.
#[inline(always)]
fn substitute(sbox: impl Fn(u8) -> u8, [a, b, c, d]: Block) -> u32 {
    (sbox((a >> 24) as u8) as u32) << 24
        | (sbox((b >> 16) as u8) as u32) << 16
        | (sbox((c >> 8) as u8) as u32) << 8
        | sbox(d as u8) as u32
}

#[cfg(test)]
mod tests {
    use aes::{
        Aes128,
        cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _},
    };
    use proptest::prelude::*;

    use super::*;

    fn columns(bytes: [u8; 16]) -> Block {
        let mut columns = [0; 4];
        for (column, bytes) in columns.iter_mut().zip(bytes.chunks(4)) {
            *column = u32::from_be_bytes(bytes.try_into().unwrap());
        }
        columns
    }

    #[test]
    fn the_vector_of_fips_197_holds() {
        // Appendix C.1.
        let key = core::array::from_fn(|at| at as u8);
        let plain = columns(core::array::from_fn(|at| at as u8 * 0x11));
        let cipher = [0x69c4_e0d8, 0x6a7b_0430, 0xd8cd_b780, 0x70b4_c55a];
        assert_eq!(encrypt(&encryption_schedule(&key), plain), cipher);
        assert_eq!(decrypt(&decryption_schedule(&key), cipher), plain);
    }

    proptest! {
        #[test]
        fn another_implementation_agrees(key: [u8; 16], block: [u8; 16]) {
            let other = Aes128::new(&key.into());
            let mut bytes = block.into();
            other.encrypt_block(&mut bytes);
            prop_assert_eq!(encrypt(&encryption_schedule(&key), columns(block)), columns(bytes.into()));
            let mut bytes = block.into();
            other.decrypt_block(&mut bytes);
            prop_assert_eq!(decrypt(&decryption_schedule(&key), columns(block)), columns(bytes.into()));
        }
    }
}
