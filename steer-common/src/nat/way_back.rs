//! The way back to a client.

use crate::{
    abi::Back,
    wire::{ETHERNET_HEADER, Packet, VLAN_TAG},
};

/// The way that a client's packet came, the other way round.
#[inline(always)]
pub(super) fn way_back(packet: &Packet) -> Back {
    Back {
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
        tags_len: (packet.network - ETHERNET_HEADER) as u32,
    }
}
