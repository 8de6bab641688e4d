//! Classes: groups of a service's clients, by source prefix and DSCP.
//!
//! A class has a policy, which is a [`Service`](super::Service) of its own for its clients: one
//! look-up of the longest prefix leads to it, and one in an array where DSCPs tell classes apart.

use super::Address;

/// DSCPs that there are (RFC 2474 section 3: six bits).
pub const DSCPS: usize = 64;

/// What the trie of classes is searched with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ClassKey {
    /// [`Service::classes`](super::Service::classes), all of whose bits count.
    scope: u64,
    /// The client.
    client: Address,
}

impl ClassKey {
    /// Bits of the key in front of the address.
    pub const SCOPE_BITS: u32 = 64;

    /// A client of a service.
    #[inline(always)]
    pub const fn new(scope: u16, client: Address) -> Self {
        Self {
            scope: scope as u64,
            client,
        }
    }

    /// The service that it is about, and with it the bank.
    pub const fn scope(&self) -> u16 {
        self.scope as u16
    }

    /// The client, or the beginning of its address.
    pub const fn client(&self) -> Address {
        self.client
    }
}

/// What the longest prefix says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ClassMatch {
    /// The policy, where DSCPs do not matter: an index counted over both banks. 0 is that of the
    /// service.
    pub policy: u16,
    /// A [`DscpTable`], counted over both banks; 0 where DSCPs do not matter.
    pub table: u16,
}

/// Policies by DSCP, as in [`ClassMatch::policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DscpTable(pub [u16; DSCPS]);
