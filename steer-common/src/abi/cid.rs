//! QUIC connection ids that say which server they belong to.

/// How connection ids are laid out, by their first three bits. Their meaning is in
/// [`cid`](crate::cid).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CidLayouts {
    /// Length of the server id in bytes, 1 to 8; 0 if ids with these bits say nothing.
    pub(crate) server_id: [u8; 8],
    /// Shortest connection id that has a server id and a nonce.
    pub(crate) length: [u8; 8],
}

/// What a service's member is found by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct CidKey {
    /// The server id, its bytes as a number of the network's byte order.
    pub server_id: u64,
    /// The service's number.
    pub service: u16,
    /// The first three bits of the connection id.
    pub rotation: u8,
    /// Length of the server id in bytes.
    pub server_id_len: u8,
    #[doc(hidden)]
    pub _pad: u32,
}
