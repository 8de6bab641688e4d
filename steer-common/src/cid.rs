//! QUIC connection ids that name their server: draft-ietf-quic-load-balancers-21, in plaintext or
//! encrypted.
//!
//! The first octet has three bits of "config rotation" (section 3.1), which select a layout, and
//! five that are random or encode the length (section 3.3). The server id and a nonce follow
//! (section 5.2). Bits 0b111 mark ids that name no server (section 3.2).

pub mod cipher;

use crate::abi::CidLayouts;

/// Longest connection id of QUIC version 1 (RFC 9000 section 17.2).
pub const MAX_LEN: usize = 20;
/// Longest server id. The draft allows 15 bytes; eight are one word, and more than enough that
/// random ids match none.
pub const MAX_SERVER_ID: usize = 8;
/// Shortest nonce (section 5.3).
pub const MIN_NONCE: usize = 4;
/// Number of layouts that can be used side by side.
pub const ROTATIONS: u8 = 7;
/// First three bits of ids that name no server.
pub const UNROUTABLE: u8 = 0b111;

/// Lengths of the fields after the first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    server_id: u8,
    nonce: u8,
}

impl Layout {
    /// Creates a layout from the lengths of server id and nonce in bytes. `None` if the draft does
    /// not allow them, or the server id is longer than [`MAX_SERVER_ID`].
    pub const fn new(server_id: usize, nonce: usize) -> Option<Self> {
        let fits = server_id >= 1
            && server_id <= MAX_SERVER_ID
            && nonce >= MIN_NONCE
            && nonce < MAX_LEN - server_id;
        if !fits {
            return None;
        }
        Some(Self {
            server_id: server_id as u8,
            nonce: nonce as u8,
        })
    }

    /// Returns the length of the server id in bytes.
    pub const fn server_id(self) -> usize {
        self.server_id as usize
    }

    /// Returns the length of the nonce in bytes.
    pub const fn nonce(self) -> usize {
        self.nonce as usize
    }

    /// Returns the length of connection ids in bytes.
    pub const fn cid_len(self) -> usize {
        1 + self.server_id() + self.nonce()
    }
}

/// A server as named by connection ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// First three bits of its connection ids.
    pub rotation: u8,
    /// Length of its server id in bytes.
    pub len: u8,
    /// Server id, as a number in network byte order.
    pub id: u64,
}

impl Server {
    /// Creates a server from its server id. `None` if there is no such rotation, or the id is empty
    /// or too long.
    pub fn new(rotation: u8, id: &[u8]) -> Option<Self> {
        if rotation >= ROTATIONS || id.is_empty() || id.len() > MAX_SERVER_ID {
            return None;
        }
        Some(Self {
            rotation,
            len: id.len() as u8,
            id: id.iter().fold(0, |id, byte| id << 8 | u64::from(*byte)),
        })
    }
}

impl CidLayouts {
    /// Sets or removes the layout of a rotation below [`ROTATIONS`]; others stay without.
    #[must_use]
    pub fn with(mut self, rotation: u8, layout: Option<Layout>) -> Self {
        if rotation < ROTATIONS {
            let index = usize::from(rotation);
            self.server_id[index] = layout.map_or(0, |layout| layout.server_id);
            self.length[index] = layout.map_or(0, |layout| layout.cid_len() as u8);
            self.encrypted &= !(1 << rotation);
        }
        self
    }

    /// Enables decryption of ids with a rotation below [`ROTATIONS`], by its
    /// [`CidCipher`](crate::abi::CidCipher).
    #[must_use]
    pub fn with_encryption(self, rotation: u8) -> Self {
        let mut layouts = self.with(rotation, None);
        if rotation < ROTATIONS {
            layouts.encrypted |= 1 << rotation;
        }
        layouts
    }

    /// Returns whether ids of a rotation are encrypted.
    #[inline(always)]
    pub(crate) const fn is_encrypted(&self, rotation: u8) -> bool {
        self.encrypted >> (rotation & 7) & 1 != 0
    }

    /// Returns the layout of a rotation.
    pub fn layout(&self, rotation: u8) -> Option<Layout> {
        let index = usize::from(rotation);
        let server_id = usize::from(*self.server_id.get(index)?);
        let nonce = usize::from(self.length[index]).checked_sub(1 + server_id)?;
        Layout::new(server_id, nonce)
    }

    /// Returns the server of an id of `len` bytes, given its first byte in `first` and the
    /// following eight in `next`, in packet order. Its `len` is 0 if it names none.
    ///
    /// Not an `Option`: see `Outcome`.
    #[inline(always)]
    pub(crate) const fn server(&self, first: u8, next: u64, len: usize) -> Server {
        let rotation = first >> 5;
        let id_len = self.server_id[rotation as usize];
        let long_enough = id_len != 0 && len >= self.length[rotation as usize] as usize;
        let id_len = if long_enough { id_len } else { 0 };
        Server {
            rotation,
            len: id_len,
            id: u64::from_be(next) >> ((64 - 8 * id_len as u32) & 63),
        }
    }
}

/// Returns the server that a connection id names. `None` if its layout is unknown, or it is too
/// short for that.
pub fn decode(cid: &[u8], layouts: &CidLayouts) -> Option<Server> {
    let (first, rest) = cid.split_first()?;
    let mut next = [0; MAX_SERVER_ID];
    let known = rest.len().min(MAX_SERVER_ID);
    next[..known].copy_from_slice(&rest[..known]);
    let server = layouts.server(*first, u64::from_ne_bytes(next), cid.len());
    (server.len != 0).then_some(server)
}

/// A connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cid {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl Cid {
    /// Returns its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Returns the same id with all but its first octet encrypted.
    #[must_use]
    pub fn encrypted(mut self, key: &[u8; 16]) -> Self {
        cipher::encrypt(key, &mut self.bytes[1..usize::from(self.len)]);
        self
    }
}

/// Content of the last five bits of the first octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowBits {
    /// The remaining length, for hardware that needs it.
    Length,
    /// These bits, which must be random.
    Random(u8),
}

/// Returns the connection id of a server with this nonce, which must be random (section 5.4).
/// `None` if the nonce is too short or too long.
pub fn encode(server: Server, nonce: &[u8], low: LowBits) -> Option<Cid> {
    let layout = Layout::new(usize::from(server.len), nonce.len())?;
    let len = layout.cid_len();
    let low = match low {
        LowBits::Length => len as u8 - 1,
        LowBits::Random(bits) => bits & 0x1f,
    };
    let mut bytes = [0; MAX_LEN];
    bytes[0] = server.rotation << 5 | low;
    let id = server.id.to_be_bytes();
    let end = 1 + layout.server_id();
    bytes[1..end].copy_from_slice(&id[MAX_SERVER_ID - layout.server_id()..]);
    bytes[end..len].copy_from_slice(nonce);
    Some(Cid {
        bytes,
        len: len as u8,
    })
}

/// Returns the connection id of a server without a configuration (section 3.2), with a nonce of 7
/// to 19 random bytes. `None` if it has another length.
pub fn unroutable(nonce: &[u8]) -> Option<Cid> {
    let mut bytes = [0; MAX_LEN];
    if !(7..MAX_LEN).contains(&nonce.len()) {
        return None;
    }
    bytes[0] = UNROUTABLE << 5 | nonce.len() as u8;
    bytes[1..=nonce.len()].copy_from_slice(nonce);
    Some(Cid {
        bytes,
        len: nonce.len() as u8 + 1,
    })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let bytes = (0..text.len()).step_by(2);
        bytes
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// Checks the draft's vector without encryption; the other one is misprinted, with a nonce of
    /// four and a half bytes.
    #[test]
    fn the_vector_of_the_draft_holds() {
        let (id, nonce, cid) = (hex("c4605e"), hex("4504cc4f"), hex("07c4605e4504cc4f"));
        let server = Server::new(0, &id).unwrap();
        let made = encode(server, &nonce, LowBits::Length).unwrap();
        assert_eq!(made.bytes(), cid);
        let layouts = CidLayouts::default().with(0, Layout::new(3, 4));
        assert_eq!(decode(&cid, &layouts), Some(server));
    }

    #[test]
    fn ids_without_a_configuration_say_nothing() {
        let cid = unroutable(&[9; 7]).unwrap();
        assert_eq!(cid.bytes(), [0xe7, 9, 9, 9, 9, 9, 9, 9]);
        let all = (0..8).fold(CidLayouts::default(), |layouts, rotation| {
            layouts.with(rotation, Layout::new(1, 4))
        });
        assert_eq!(decode(cid.bytes(), &all), None);
        assert_eq!(unroutable(&[9; 6]), None);
        assert_eq!(unroutable(&[9; 20]), None);
    }

    prop_compose! {
        fn lengths()(id in 1..=MAX_SERVER_ID)(id in Just(id), nonce in MIN_NONCE..MAX_LEN - id)
            -> (usize, usize) { (id, nonce) }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            (id, nonce) in lengths(),
            rotation in 0..ROTATIONS,
            bytes: [u8; MAX_LEN],
            low: Option<u8>,
            extra in 0..4_usize,
        ) {
            let server = Server::new(rotation, &bytes[..id]).unwrap();
            let low = low.map_or(LowBits::Length, LowBits::Random);
            let cid = encode(server, &bytes[id..id + nonce], low).unwrap();
            let layout = Layout::new(id, nonce);
            prop_assert_eq!(cid.bytes().len(), layout.unwrap().cid_len());
            let layouts = CidLayouts::default().with(rotation, layout);
            prop_assert_eq!(layouts.layout(rotation), layout);
            prop_assert_eq!(decode(cid.bytes(), &layouts), Some(server));
            // A server may append arbitrary bytes; a truncated id names no server.
            let mut longer = cid.bytes().to_vec();
            longer.extend(&bytes[..extra]);
            prop_assert_eq!(decode(&longer, &layouts), Some(server));
            prop_assert_eq!(decode(&longer[..cid.bytes().len() - 1], &layouts), None);
            let other = CidLayouts::default().with((rotation + 1) % ROTATIONS, layout);
            prop_assert_eq!(decode(cid.bytes(), &other), None);
        }

        #[test]
        fn any_bytes_are_decoded_by_their_own_layout_or_not_at_all(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            layouts in proptest::collection::vec(proptest::option::of(lengths()), 7),
        ) {
            let layouts = (0..).zip(layouts).fold(CidLayouts::default(), |all, (rotation, one)| {
                all.with(rotation, one.and_then(|(id, nonce)| Layout::new(id, nonce)))
            });
            let own = bytes.first().and_then(|first| layouts.layout(first >> 5));
            let fits = own.filter(|layout| bytes.len() >= layout.cid_len());
            let expected = fits.map(|layout| {
                Server::new(bytes[0] >> 5, &bytes[1..=layout.server_id()]).unwrap()
            });
            prop_assert_eq!(decode(&bytes, &layouts), expected);
        }

        #[test]
        fn lengths_are_those_of_the_draft(id in 0..30_usize, nonce in 0..30_usize) {
            let allowed = (1..=MAX_SERVER_ID).contains(&id) && nonce >= 4 && id + nonce <= 19;
            prop_assert_eq!(Layout::new(id, nonce).is_some(), allowed);
        }
    }
}
