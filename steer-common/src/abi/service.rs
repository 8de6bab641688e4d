//! Services.

use super::Address;

/// Key that a packet's destination is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey {
    /// Virtual IP address.
    pub address: Address,
    /// Port in host byte order; 0 means any.
    pub port: u16,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// IP version: 4 or 6. 0 marks an unused entry.
    pub family: u8,
    /// 0 for a service; for the policy of a class, a hash of the class's name.
    pub class: u32,
}

impl ServiceKey {
    /// Returns whether two keys are equal.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        self.agrees(other, u64::MAX)
    }

    /// Returns whether it is the key of a class of a service, or of the service itself.
    #[inline(always)]
    pub const fn is_class_of(&self, service: &Self) -> bool {
        self.agrees(service, u32::MAX as u64)
    }

    /// Returns whether the address and these bits of the rest are equal, in as few comparisons as
    /// possible.
    #[inline(always)]
    const fn agrees(&self, other: &Self, bits: u64) -> bool {
        let ([a, b], [c, d]) = (self.address.words(), other.address.words());
        (a ^ c) | (b ^ d) | ((self.rest() ^ other.rest()) & bits) == 0
    }

    /// Returns everything except the address.
    #[inline(always)]
    const fn rest(&self) -> u64 {
        self.port as u64
            | (self.protocol as u64) << 16
            | (self.family as u64) << 24
            | (self.class as u64) << 32
    }
}

/// A service in the perfect hash; or the policy of a class, which replaces the service for its
/// clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// Key by which it is found.
    pub key: ServiceKey,
    /// Start of its table in the arena of slots.
    pub slots_start: u32,
    /// Length of its table; 0 without backends.
    pub slots_len: u32,
    /// Bits of [`service_flags`].
    pub flags: u32,
    /// Number of the service or class.
    pub id: u16,
    /// Index of its [`SourceLimit`](super::SourceLimit) over both banks; 0 if it has none. What the
    /// daemon publishes counts within a bank.
    pub limit: u16,
    /// Regions that may serve it: bit n stands for [`Member::region`](super::Member) n.
    pub regions: u64,
    /// Nanoseconds between new flows at the sustained rate; 0 is unlimited.
    pub flow_interval: u32,
    /// Scope of its classes in the trie; 0 if it has none. Written by the daemon's side of the data
    /// path on publication.
    pub classes: u16,
    /// Priority; the lowest is shed first.
    pub priority: u8,
    #[doc(hidden)]
    pub _pad: u8,
    /// Burst, as nanoseconds of new flows.
    pub flow_burst: u64,
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// Open flows of a member that is down are reset. Otherwise they go to another member.
    pub const RESET_OPEN: u32 = 1;
    /// Flows without a backend are refused by a reset if the protocol has one. Otherwise they are
    /// dropped.
    pub const REJECT: u32 = 2;
    /// At least one member has mode `nat`.
    pub const HAS_NAT: u32 = 4;
    /// UDP: each flow stays with its member.
    pub const AFFINITY: u32 = 8;
    /// Not a service, but a source address of `nat`, so that replies are recognized.
    pub const NAT_SOURCE: u32 = 16;
    /// Its new flows may be shed: see `pressure` of its admission entry.
    pub const SHEDS: u32 = 256;
    /// Not a service, but an address of services: packets to it may be fragments of packets for a
    /// service.
    pub const ADDRESS: u32 = 32;
    /// With [`ADDRESS`]: a service, or `nat`, uses TCP there.
    pub const ADDRESS_TCP: u32 = 512;
    /// With [`ADDRESS`]: a service, or `nat`, uses UDP there.
    pub const ADDRESS_UDP: u32 = 1024;
    /// UDP with QUIC: datagrams are steered by their headers and connection ids.
    pub const QUIC: u32 = 64;
}
