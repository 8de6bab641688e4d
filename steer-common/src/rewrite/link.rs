//! Link layer before the IP header: MAC addresses, VLAN tags, and room for outer headers.

use super::write::INTERNAL;
use crate::{
    abi::{ClientNextHop, Macs},
    frame::Frame,
    tables::NextHop,
    verdict::DropReason,
    wire::{ETHERNET_HEADER, ETHERTYPE_VLAN, VLAN_TAG},
};

/// MAC addresses, and VLAN tags in memory order.
pub(super) struct Link {
    macs: Macs,
    tags: u64,
    /// Length of the tags in bytes: 0, 4 or 8.
    len: usize,
}

impl Link {
    /// Creates the link header for a next hop.
    #[inline(always)]
    pub(super) const fn to_hop(hop: &NextHop) -> Self {
        let word = (ETHERTYPE_VLAN as u32) << 16 | hop.vlan as u32;
        Self {
            macs: hop.macs,
            tags: (word.to_be() as u64).to_le(),
            len: if hop.vlan == 0 { 0 } else { VLAN_TAG },
        }
    }

    /// Creates the link header for a return path.
    #[inline(always)]
    pub(super) const fn back(back: &ClientNextHop) -> Self {
        Self {
            macs: back.macs,
            tags: back.tags,
            len: back.tag_bytes() as usize,
        }
    }
}

/// Makes the frame start with these MAC addresses and tags, and leaves `outer` bytes between them
/// and the IP header at `network`. Returns the offset after the tags.
#[inline(always)]
pub(super) fn relink<F: Frame>(
    frame: &mut F,
    network: usize,
    outer: usize,
    link: &Link,
    ethertype: u16,
) -> Result<usize, DropReason> {
    const TAGS: usize = ETHERNET_HEADER - 2;
    if network == ETHERNET_HEADER && link.len == 0 {
        if outer != 0 {
            frame.grow_head(outer).ok_or(DropReason::NoHeadroom)?;
            frame.store(TAGS, ethertype.to_be()).ok_or(INTERNAL)?;
        }
        write_macs(frame, link.macs)?;
        return Ok(network);
    }
    let len = frame.launder(link.len as u64) as usize & 0xc;
    let start = ETHERNET_HEADER + len;
    let end = frame.unlink(start + outer);
    if end > network {
        frame
            .grow_head(end - network)
            .ok_or(DropReason::NoHeadroom)?;
    } else if end < network {
        frame.shrink_head(network - end).ok_or(INTERNAL)?;
    }
    let words = link.tags.to_le();
    if len != 0 {
        let first = (words as u32).to_le();
        frame.store(TAGS, first).ok_or(INTERNAL)?;
    }
    if len > VLAN_TAG {
        let second = ((words >> 32) as u32).to_le();
        frame.store(TAGS + VLAN_TAG, second).ok_or(INTERNAL)?;
    }
    frame.store(TAGS + len, ethertype.to_be()).ok_or(INTERNAL)?;
    write_macs(frame, link.macs)?;
    Ok(start)
}

#[inline(always)]
pub(super) fn write_macs<F: Frame>(frame: &mut F, macs: Macs) -> Result<(), DropReason> {
    let (first, second) = macs.words();
    frame
        .store(8, second)
        .and_then(|()| frame.store(0, first))
        .ok_or(INTERNAL)
}
