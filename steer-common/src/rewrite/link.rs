//! What stands before the IP header: MAC addresses, VLAN tags, and room for outer headers.

use super::INTERNAL;
use crate::{
    abi::{Back, Macs},
    frame::Frame,
    tables::NextHop,
    verdict::DropReason,
    wire::{ETHERNET_HEADER, ETHERTYPE_VLAN, VLAN_TAG},
};

/// VLAN tags as they lie in a frame.
pub(super) struct Tags {
    words: u64,
    /// In bytes: 0, 4 or 8.
    len: usize,
}

impl Tags {
    /// Those of the way to a member.
    #[inline(always)]
    pub(super) const fn of(hop: &NextHop) -> Self {
        if hop.vlan == 0 {
            return Self { words: 0, len: 0 };
        }
        let word = (ETHERTYPE_VLAN as u32) << 16 | hop.vlan as u32;
        Self {
            words: (word.to_be() as u64).to_le(),
            len: VLAN_TAG,
        }
    }

    /// Those of the way back to a client.
    #[inline(always)]
    pub(super) const fn back(back: &Back) -> Self {
        Self {
            words: back.tags,
            len: back.tags_len as usize & 0xc,
        }
    }
}

/// Makes the frame begin with these tags, and leaves `outer` bytes between them and the IP header at
/// `network`. Returns the offset of what follows the tags. MAC addresses are not written.
#[inline(always)]
pub(super) fn relink<F: Frame>(
    frame: &mut F,
    network: usize,
    outer: usize,
    tags: &Tags,
    ethertype: u16,
) -> Result<usize, DropReason> {
    const TAGS: usize = ETHERNET_HEADER - 2;
    if network == ETHERNET_HEADER && tags.len == 0 {
        if outer != 0 {
            frame.grow_head(outer).ok_or(DropReason::NoHeadroom)?;
            frame.store(TAGS, ethertype.to_be()).ok_or(INTERNAL)?;
        }
        return Ok(network);
    }
    let len = frame.opaque(tags.len as u64) as usize & 0xc;
    let start = ETHERNET_HEADER + len;
    let end = frame.apart(start + outer);
    if end > network {
        frame
            .grow_head(end - network)
            .ok_or(DropReason::NoHeadroom)?;
    } else if end < network {
        frame.shrink_head(network - end).ok_or(INTERNAL)?;
    }
    let words = tags.words.to_le();
    if len != 0 {
        let first = (words as u32).to_le();
        frame.store(TAGS, first).ok_or(INTERNAL)?;
    }
    if len > VLAN_TAG {
        let second = ((words >> 32) as u32).to_le();
        frame.store(TAGS + VLAN_TAG, second).ok_or(INTERNAL)?;
    }
    frame.store(TAGS + len, ethertype.to_be()).ok_or(INTERNAL)?;
    Ok(start)
}

#[inline(always)]
pub(super) fn write_macs<F: Frame>(frame: &mut F, macs: Macs) -> Result<(), DropReason> {
    let (first, second) = macs.words();
    frame
        .store(0, first)
        .and_then(|()| frame.store(8, second))
        .ok_or(INTERNAL)
}
