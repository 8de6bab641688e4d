//! Addresses and interfaces for which the kernel does not forward packets, queried without a
//! packet.

use std::{collections::HashSet, fs, net::IpAddr};

use nix::{ifaddrs::getifaddrs, net::if_::if_indextoname};
use steer_common::abi::Address;
use steer_core::dataplane::SnapshotTables;

/// Copies from this network namespace into `tables` how the kernel treats packets that arrive on
/// an interface and are not steered.
pub fn copy_local_addresses(tables: &SnapshotTables, interface: u32) {
    tables.own_addresses.replace(own_addresses());
    tables
        .forwards
        .set([4, 6].map(|family| forwards(interface, family)));
}

/// Returns the addresses of this network namespace.
fn own_addresses() -> HashSet<Address> {
    let Ok(all) = getifaddrs() else {
        return HashSet::new();
    };
    let ip = |address: nix::sys::socket::SockaddrStorage| -> Option<IpAddr> {
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    };
    all.filter_map(|of| of.address.and_then(ip))
        .map(Address::from)
        .collect()
}

/// Returns whether the kernel forwards packets that arrive on an interface.
fn forwards(interface: u32, family: u8) -> bool {
    let Ok(name) = if_indextoname(interface) else {
        return false;
    };
    let name = name.to_string_lossy();
    let path = format!("/proc/sys/net/ipv{family}/conf/{name}/forwarding");
    fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
}
