//! Address prefixes in the form of the kernel's tries.

use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use steer_common::abi::Address;
use steer_core::dataplane::prefix;

/// Returns the key of a prefix. IPv4 addresses are mapped into IPv6.
pub(super) fn key(prefix: (IpAddr, u8)) -> Key<Address> {
    let (len, _) = prefix::bits(prefix);
    Key::new(len, Address::from(prefix.0))
}
