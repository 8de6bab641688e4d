//! Services.

use super::Address;

/// What a packet's destination is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey {
    /// The VIP.
    pub address: Address,
    /// The port, in host byte order; 0 means any.
    pub port: u16,
    /// IP protocol number: 6 or 17.
    pub protocol: u8,
    /// Version of IP: 4 or 6. 0 marks an entry that is not in use.
    pub family: u8,
    /// 0 for a service; of a policy of one of its classes, a hash of the class's name.
    pub class: u32,
}

impl ServiceKey {
    /// Returns whether two are the same.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        self.agrees(other, u64::MAX)
    }

    /// Returns whether it is that of a class of a service, or the service itself.
    #[inline(always)]
    pub const fn is_class_of(&self, service: &Self) -> bool {
        self.agrees(service, u32::MAX as u64)
    }

    /// Returns whether address and these bits of the rest are the same, in as few comparisons as
    /// may be.
    #[inline(always)]
    const fn agrees(&self, other: &Self, bits: u64) -> bool {
        let ([a, b], [c, d]) = (self.address.words(), other.address.words());
        (a ^ c) | (b ^ d) | ((self.rest() ^ other.rest()) & bits) == 0
    }

    /// All but the address.
    #[inline(always)]
    const fn rest(&self) -> u64 {
        self.port as u64
            | (self.protocol as u64) << 16
            | (self.family as u64) << 24
            | (self.class as u64) << 32
    }
}

/// A service, as the perfect hash holds it; or the policy of a class, which takes the service's place
/// for its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// What it is found by.
    pub key: ServiceKey,
    /// Where its table begins in the arena of slots.
    pub slots_start: u32,
    /// Length of its table; 0 means that there is no backend.
    pub slots_len: u32,
    /// [`service_flags`].
    pub flags: u32,
    /// The number of the service or class.
    pub id: u16,
    /// Its [`SourceLimit`](super::SourceLimit), counted over both banks; 0 if it has none. What the daemon
    /// publishes has it within a bank.
    pub limit: u16,
    /// Regions that it may be served from: bit n stands for [`Member::region`](super::Member) n.
    pub regions: u64,
    /// Nanoseconds from one new flow to the next in the long run; 0 takes any number.
    pub flow_interval: u32,
    /// What prefixes of its classes begin with in the trie; 0 if it has none. The daemon's side of the
    /// data path writes it when it publishes.
    pub classes: u16,
    /// The lowest is shed first.
    pub priority: u8,
    #[doc(hidden)]
    pub _pad: u8,
    /// How many nanoseconds of new flows may come at once.
    pub flow_burst: u64,
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// Open flows of a member that is down are reset. Otherwise they go to another member.
    pub const RESET_OPEN: u32 = 1;
    /// What finds no backend is refused with a reset where there is one. Otherwise it is dropped.
    pub const REJECT: u32 = 2;
    /// At least one member has mode `nat`.
    pub const HAS_NAT: u32 = 4;
    /// UDP: each flow stays with its member.
    pub const AFFINITY: u32 = 8;
    /// Not a service but an address that `nat` uses as source, so that replies are recognised.
    pub const NAT_SOURCE: u32 = 16;
    /// Its new flows may be shed: see `pressure` of its admission entry.
    pub const SHEDS: u32 = 256;
    /// Not a service but an address of services: packets to it may be parts of one for a service.
    pub const ADDRESS: u32 = 32;
    /// With [`ADDRESS`]: a service, or `nat`, has TCP there.
    pub const ADDRESS_TCP: u32 = 512;
    /// With [`ADDRESS`]: a service, or `nat`, has UDP there.
    pub const ADDRESS_UDP: u32 = 1024;
    /// UDP that is QUIC: datagrams are told by their headers and connection ids.
    pub const QUIC: u32 = 64;
}
