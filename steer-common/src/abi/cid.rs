//! QUIC connection ids that name their server.

use core::fmt;

use crate::aes::Schedule;

/// Layouts of connection ids, indexed by their first three bits. Their meaning is in
/// [`cid`](crate::cid).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CidLayouts {
    /// Length of the server id in bytes, 1 to 8; 0 if ids with these bits do not name a server.
    pub(crate) server_id: [u8; 8],
    /// Minimum length of a connection id with a server id and a nonce.
    pub(crate) length: [u8; 8],
    /// Bits of the encrypted layouts, for which `server_id` is 0.
    pub(crate) encrypted: u32,
    #[doc(hidden)]
    pub(crate) _pad: u32,
}

/// Decryption of connection ids with the same first three bits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CidCipher {
    /// Round keys of AES-128: for decryption in the single-pass case, for encryption otherwise.
    pub(crate) schedule: Schedule,
    /// Bits of the first half.
    pub(crate) left_mask: [u64; 2],
    /// Bits of the second half.
    pub(crate) right_mask: [u64; 2],
    /// Offset of the second half in bytes after the first octet.
    pub(crate) right_at: u8,
    /// Length of server id and nonce in bytes.
    pub(crate) length: u8,
    /// Returns the length of the server id in bytes.
    pub(crate) server_id: u8,
    /// Number of decryption passes: 1, 3 or 4; 0 is none.
    pub(crate) passes: u8,
    #[doc(hidden)]
    pub(crate) _pad: u32,
}

impl fmt::Debug for CidCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CidCipher")
            .field("passes", &self.passes)
            .field("length", &self.length)
            .field("server_id", &self.server_id)
            .finish_non_exhaustive()
    }
}

/// Key by which a member of a service is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct CidKey {
    /// Server id, as a number in network byte order.
    pub server_id: u64,
    /// Number of the service.
    pub service: u16,
    /// First three bits of the connection id.
    pub rotation: u8,
    /// Returns the length of the server id in bytes.
    pub server_id_len: u8,
    #[doc(hidden)]
    pub _pad: u32,
}
