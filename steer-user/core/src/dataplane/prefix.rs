//! Address prefixes as bits of IPv6 addresses.

use std::net::{IpAddr, Ipv6Addr};

/// Returns length and bits of a prefix as those of an IPv6 address.
#[must_use]
pub fn bits((address, len): (IpAddr, u8)) -> (u32, u128) {
    match address {
        IpAddr::V4(v4) => (
            u32::from(len) + Ipv6Addr::BITS - 32,
            v4.to_ipv6_mapped().to_bits(),
        ),
        IpAddr::V6(v6) => (u32::from(len), v6.to_bits()),
    }
}
