//! Ethernet headers with up to two VLAN tags.

use crate::frame::Frame;

/// Length of an Ethernet header without tags.
pub const ETHERNET_HEADER: usize = 14;

/// Length of a VLAN tag.
pub const VLAN_TAG: usize = 4;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;

/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// EtherType of a VLAN tag (IEEE 802.1Q).
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;

/// EtherType of an outer VLAN tag (IEEE 802.1ad).
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Returns whether a frame without VLAN tags contains an IPv6 packet.
#[inline(always)]
pub fn is_v6<F: Frame>(frame: &F) -> bool {
    outer_ethertype(frame) == Some(ETHERTYPE_IPV6)
}

#[inline(always)]
pub(super) fn outer_ethertype<F: Frame>(frame: &F) -> Option<u16> {
    Some(u16::from_be(frame.load(ETHERNET_HEADER - 2)?))
}

/// Returns the EtherType after up to two VLAN tags, and the offset after it.
#[inline(always)]
pub fn ethertype<F: Frame>(frame: &F) -> Option<(u16, usize)> {
    let mut network = ETHERNET_HEADER;
    let mut ethertype = u16::from_be(frame.load(network - 2)?);
    if is_vlan(ethertype) {
        network += VLAN_TAG;
        ethertype = u16::from_be(frame.load(network - 2)?);
        if is_vlan(ethertype) {
            network += VLAN_TAG;
            ethertype = u16::from_be(frame.load(network - 2)?);
        }
    }
    Some((ethertype, network))
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}
