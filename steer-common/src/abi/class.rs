//! Classes: groups of a service's clients, by source prefix and DSCP.
//!
//! A class has a policy, which is a [`Service`](super::Service) of its own for its clients: one
//! longest-prefix look-up leads to it, plus one array look-up if DSCPs distinguish classes.

use super::Address;

/// Number of DSCPs (RFC 2474 section 3: six bits).
pub const DSCPS: usize = 64;

/// Key of the trie of classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ClassKey {
    /// [`Service::classes`](super::Service::classes), all of whose bits are significant.
    scope: u64,
    /// Client address.
    client: Address,
}

impl ClassKey {
    /// Number of key bits before the address.
    pub const SCOPE_BITS: u32 = 64;

    /// Creates the key of a service's client.
    #[inline(always)]
    pub const fn new(scope: u16, client: Address) -> Self {
        Self {
            scope: scope as u64,
            client,
        }
    }

    /// Returns the scope: service and bank.
    pub const fn scope(&self) -> u16 {
        self.scope as u16
    }

    /// Returns the client, or its prefix.
    pub const fn client(&self) -> Address {
        self.client
    }
}

/// Value of the longest prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ClassMatch {
    /// Policy, if DSCPs do not matter: an index over both banks. 0 is that of the service.
    pub policy: u16,
    /// Index of a [`DscpTable`] over both banks; 0 if DSCPs do not matter.
    pub table: u16,
}

/// Policies by DSCP, as in [`ClassMatch::policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DscpTable(pub [u16; DSCPS]);
