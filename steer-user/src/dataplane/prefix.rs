//! Prefixes of addresses, as the kernel's tries have them.

use std::net::{IpAddr, Ipv6Addr};

use aya::maps::lpm_trie::Key;
use steer_common::abi::Address;

/// The key of a prefix. IPv4 addresses are mapped into IPv6.
pub(super) fn key((address, len): (IpAddr, u8)) -> Key<Address> {
    let len = match address {
        IpAddr::V4(_) => u32::from(len) + Ipv6Addr::BITS - 32,
        IpAddr::V6(_) => u32::from(len),
    };
    Key::new(len, Address::from(address))
}
