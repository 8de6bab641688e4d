//! Address prefixes in the form of the kernel's tries.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::lpm_trie::Key;
use steer_common::abi::Address;

/// Returns the key of a prefix. IPv4 addresses are mapped into IPv6.
pub(super) fn key(prefix: (IpAddr, u8)) -> Key<Address> {
    let (len, _) = bits(prefix);
    Key::new(len, Address::from(prefix.0))
}

/// Returns length and bits of a prefix as those of an IPv6 address.
pub(super) fn bits((address, len): (IpAddr, u8)) -> (u32, u128) {
    match address {
        IpAddr::V4(v4) => (
            u32::from(len) + Ipv6Addr::BITS - 32,
            v4.to_ipv6_mapped().to_bits(),
        ),
        IpAddr::V6(v6) => (u32::from(len), v6.to_bits()),
    }
}
