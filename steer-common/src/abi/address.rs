//! IP and MAC addresses as the maps hold them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of a MAC address in bytes.
pub const MAC_LEN: usize = 6;

/// A MAC address.
pub type Mac = [u8; MAC_LEN];

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// An IP address: 16 bytes in network byte order, IPv4 as IPv4-mapped (RFC 4291 section 2.5.5.2).
///
/// Two words, so that the kernel compares and copies it in two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Address([u64; 2]);

impl Address {
    /// The unspecified IPv6 address, which stands for "none".
    pub const NONE: Self = Self([0; 2]);

    /// From the four bytes of an IPv4 address, as they lie in a packet.
    #[inline(always)]
    pub const fn from_v4(bytes: [u8; 4]) -> Self {
        let [a, b, c, d] = bytes;
        Self([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
    }

    /// From the sixteen bytes of an IPv6 address, as two words that lie in memory as in a packet.
    #[inline(always)]
    pub const fn from_v6(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// The bytes of the IPv4 address, if it is one; its last four bytes otherwise.
    #[inline(always)]
    pub const fn v4(self) -> [u8; 4] {
        let [_, _, _, _, a, b, c, d] = self.0[1].to_ne_bytes();
        [a, b, c, d]
    }

    /// Two words that lie in memory as the address does in an IPv6 header.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }

    /// Whether it stands for no address.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    /// The address as an IPv6 one, IPv4 mapped.
    pub fn to_ipv6(self) -> Ipv6Addr {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0[0].to_ne_bytes());
        bytes[8..].copy_from_slice(&self.0[1].to_ne_bytes());
        Ipv6Addr::from(bytes)
    }

    /// The address, IPv4 where it is mapped.
    pub fn to_ip(self) -> IpAddr {
        self.to_ipv6().to_canonical()
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4(address.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        let bytes = address.octets();
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[from..from + 8]);
            u64::from_ne_bytes(word)
        };
        Self([word(0), word(8)])
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl Family {
    /// The family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}
