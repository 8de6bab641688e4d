//! Interfaces, the node's own MAC addresses, and the routers next to it.

use super::Mac;

/// Mask of a MAC address in a word.
const MAC_BITS: u64 = (1 << 48) - 1;
/// Shift of a 64-bit hash that leaves an index below [`MAX_NODE_MACS`](super::MAX_NODE_MACS).
const HASH_SHIFT: u32 = u64::BITS - super::MAX_NODE_MACS.trailing_zeros();

/// Properties of an interface, at its index modulo [`MAX_INTERFACES`](super::MAX_INTERFACES).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// Index of the interface; 0 if the entry is free.
    pub index: u32,
    /// Index of the bond that it is a port of; otherwise its own.
    pub group: u32,
    /// MTU in bytes; 0 if unknown.
    pub mtu: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

/// A MAC address next to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RouterKey {
    /// Address as in [`mac_word`], with the VLAN in the upper 16 bits; 0 is untagged.
    pub mac: u64,
    /// Index of the interface.
    pub interface: u32,
    /// IP version, 4 or 6: a router's addresses of each family move independently.
    pub family: u32,
}

impl RouterKey {
    /// Creates the key of a MAC address in a VLAN of an interface.
    #[inline(always)]
    pub const fn new(interface: u32, vlan: u16, family: u8, mac: u64) -> Self {
        Self {
            mac: mac & MAC_BITS | (vlan as u64) << 48,
            interface,
            family: family as u32,
        }
    }

    /// Returns the VLAN; 0 is untagged.
    pub const fn vlan(&self) -> u16 {
        (self.mac >> 48) as u16
    }
}

/// Returns a MAC address as a number, with its first byte lowest.
pub const fn mac_word(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// Returns the MAC address at the start of a frame, from its first eight bytes in memory order.
#[inline(always)]
pub const fn first_mac(word: u64) -> u64 {
    u64::from_le(word) & MAC_BITS
}

/// Returns the position of a MAC address in [`maps::NODE_MACS`](super::maps::NODE_MACS).
#[inline(always)]
pub const fn node_mac_index(mac: u64, seed: u64) -> u32 {
    (mac.wrapping_mul(seed) >> HASH_SHIFT) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_the_same_number_by_its_bytes_and_in_a_frame() {
        let frame = [2, 0xd, 5, 6, 7, 8, 9, 10];
        let [a, b, c, d, e, f, ..] = frame;
        assert_eq!(
            first_mac(u64::from_ne_bytes(frame)),
            mac_word([a, b, c, d, e, f])
        );
    }

    #[test]
    fn places_are_inside_the_table() {
        for mac in [0, 1, MAC_BITS, 0x1234_5678_9abc] {
            for seed in [1, 3, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
                assert!(node_mac_index(mac, seed) < super::super::MAX_NODE_MACS);
            }
        }
    }
}
