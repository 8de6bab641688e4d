//! IP and MAC addresses in the form of the maps.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Length of a MAC address in bytes.
pub const MAC_LEN: usize = 6;

/// A MAC address.
pub type Mac = [u8; MAC_LEN];

/// Destination and source MAC address, in the order of the first 12 bytes of a frame.
///
/// Two words, so that the kernel copies them in two steps, aligned wherever they are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Macs([u64; 2]);

/// Formatted with the destination first: `02:00:00:00:00:01 from 02:00:00:00:00:02`.
impl fmt::Debug for Macs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (before, mac) in [("", self.destination()), (" from ", self.source())] {
            let [a, b, c, d, e, g] = mac;
            write!(f, "{before}{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")?;
        }
        Ok(())
    }
}

impl Macs {
    /// Creates the pair from the first 8 bytes of a frame and the next 4, in memory order.
    #[inline(always)]
    pub const fn from_words(first: u64, second: u32) -> Self {
        Self([first, second as u64])
    }

    /// Returns the first 8 bytes of a frame and the next 4, in memory order.
    #[inline(always)]
    pub const fn words(self) -> (u64, u32) {
        (self.0[0], self.0[1] as u32)
    }

    /// Returns the pair with source and destination exchanged.
    #[inline(always)]
    pub const fn swapped(self) -> Self {
        let [first, second] = [
            u64::from_le(self.0[0]),
            u32::from_le(self.0[1] as u32) as u64,
        ];
        let source = first >> 48 | second << 16;
        Self::from_words(
            (source | first << 48).to_le(),
            ((first >> 16) as u32).to_le(),
        )
    }

    /// Creates the pair from two addresses.
    pub fn new(destination: Mac, source: Mac) -> Self {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&destination);
        bytes[6..].copy_from_slice(&source[..2]);
        let [_, _, c, d, e, f] = source;
        Self::from_words(u64::from_ne_bytes(bytes), u32::from_ne_bytes([c, d, e, f]))
    }

    /// Returns the destination.
    pub fn destination(self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.0[0].to_ne_bytes();
        [a, b, c, d, e, f]
    }

    /// Returns the source.
    pub fn source(self) -> Mac {
        self.swapped().destination()
    }
}

/// IP version.
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
    /// Creates an address from an IPv4 address in packet order.
    #[inline(always)]
    pub const fn from_v4(word: u32) -> Self {
        let address = u32::from_le(word) as u64;
        Self([0, (address << 32 | 0xffff_0000).to_le()])
    }

    /// Creates an address from the sixteen bytes of an IPv6 address, as two words in memory order.
    #[inline(always)]
    pub const fn from_v6(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// Returns the IPv4 address in packet order, or the last four bytes of an IPv6 address.
    #[inline(always)]
    pub const fn v4(self) -> u32 {
        ((u64::from_le(self.0[1]) >> 32) as u32).to_le()
    }

    /// Returns two words in the memory order of an IPv6 header.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }

    /// Returns whether it is an IPv4 address, or an IPv6 one that looks like it.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && u64::from_le(self.0[1]) as u32 == 0xffff_0000
    }

    /// Returns the address as IPv6, with IPv4 mapped.
    pub fn to_ipv6(self) -> Ipv6Addr {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0[0].to_ne_bytes());
        bytes[8..].copy_from_slice(&self.0[1].to_ne_bytes());
        Ipv6Addr::from(bytes)
    }

    /// Returns the address, as IPv4 if it is mapped.
    pub fn to_ip(self) -> IpAddr {
        self.to_ipv6().to_canonical()
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4(u32::from_ne_bytes(address.octets()))
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
    /// Returns the family of an address.
    pub const fn of_ip(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_bytes() {
        for text in ["10.1.2.3", "fd00::1:2", "255.255.255.255", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).to_ip(), address);
        }
        let v4 = Address::from(Ipv4Addr::new(1, 2, 3, 4));
        assert_eq!(v4.v4().to_ne_bytes(), [1, 2, 3, 4]);
    }

    #[test]
    fn mac_addresses_change_places() {
        let (a, b) = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        let macs = Macs::new(a, b);
        assert_eq!((macs.destination(), macs.source()), (a, b));
        assert_eq!(macs.swapped(), Macs::new(b, a));
        let words = "01:02:03:04:05:06 from 07:08:09:0a:0b:0c";
        assert_eq!(std::format!("{macs:?}"), words);
        let (first, second) = macs.words();
        assert_eq!(first.to_ne_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(second.to_ne_bytes(), [9, 10, 11, 12]);
    }
}
