//! The return path to a client: learned at the start of its flow, and later only from packets that
//! cannot divert answers to an attacker. When a router takes over from another, the daemon updates
//! the path, and answers follow.

use crate::{
    abi::{ClientNextHop, Config, RouterKey, first_mac},
    tables::Tables,
    wire::{ETHERNET_HEADER, Packet, VLAN_TAG},
};

/// VLAN for tags without a known router.
const UNKNOWN_VLAN: u16 = 0xffff;

/// Returns the reversed path of a client's packet.
#[inline(always)]
pub(crate) fn client_next_hop(packet: &Packet, config: &Config) -> ClientNextHop {
    ClientNextHop {
        macs: packet.macs.swapped(),
        // Without tags these are the first bytes of the packet.
        tags: if packet.network == ETHERNET_HEADER {
            0
        } else if packet.network == ETHERNET_HEADER + VLAN_TAG {
            (u64::from_le(packet.tags) & 0xffff_ffff).to_le()
        } else {
            packet.tags
        },
        interface: packet.interface,
        tags_len: (packet.network - ETHERNET_HEADER) as u32 | u32::from(config.routers_epoch) << 16,
    }
}

/// Returns whether two paths are equal, whenever they were learned.
#[inline(always)]
pub(crate) const fn is_same(one: &ClientNextHop, other: &ClientNextHop) -> bool {
    let ((a, b), (c, d)) = (one.macs.words(), other.macs.words());
    let rest = (b ^ d) | (one.interface ^ other.interface) | (one.tag_bytes() ^ other.tag_bytes());
    (a ^ c) | (one.tags ^ other.tags) | rest as u64 == 0
}

/// Returns whether answers follow to the new source of a client's packet. They never return to a
/// router that another one took over from, whose last packets still arrive.
#[inline(always)]
pub(crate) fn may_follow<T: Tables>(
    known: &ClientNextHop,
    new: &ClientNextHop,
    tables: &T,
    family: u8,
    proven: bool,
) -> bool {
    let same_link = (known.tags == new.tags)
        & (known.tag_bytes() == new.tag_bytes())
        & (bond_of(tables, known.interface) == bond_of(tables, new.interface));
    let same_host = destination(known) == destination(new);
    let (is_router, is_replaced) = match tables.router(&router_key(new, family)) {
        Some(hop) => {
            let is_current = destination(&hop) == destination(new);
            (is_current, !is_current)
        }
        None => (false, false),
    };
    !is_replaced & ((same_link & (same_host | proven | is_router)) | (is_router & proven))
}

/// Returns the current path of answers, for one learned before routers changed.
#[inline(always)]
pub(crate) fn current_hop<T: Tables>(
    known: &ClientNextHop,
    tables: &T,
    family: u8,
    config: &Config,
) -> ClientNextHop {
    let hop = tables.router(&router_key(known, family)).unwrap_or(*known);
    hop.with_epoch(config.routers_epoch)
}

/// Returns the MTU of the path to a client by interface; 0 if unknown.
#[inline(always)]
pub(crate) fn mtu<T: Tables>(tables: &T, interface: u32) -> u32 {
    tables.interface(interface).map_or(0, |known| known.mtu)
}

/// Returns the bond that an interface is a port of, or the interface itself.
#[inline(always)]
fn bond_of<T: Tables>(tables: &T, interface: u32) -> u32 {
    tables
        .interface(interface)
        .map_or(interface, |known| known.group)
}

#[inline(always)]
const fn destination(hop: &ClientNextHop) -> u64 {
    first_mac(hop.macs.words().0)
}

#[inline(always)]
const fn router_key(hop: &ClientNextHop, family: u8) -> RouterKey {
    let [_, _, high, low, ..] = hop.tags.to_ne_bytes();
    let vlan = match hop.tag_bytes() {
        0 => 0,
        4 => u16::from_be_bytes([high, low]) & 0x0fff,
        _ => UNKNOWN_VLAN,
    };
    RouterKey::new(hop.interface, vlan, family, destination(hop))
}
