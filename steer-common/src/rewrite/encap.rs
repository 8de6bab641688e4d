//! IP in IP (RFC 2003) and IP in IPv6 (RFC 2473).

use super::{INTERNAL, write_macs};
use crate::{
    abi::{Address, Config, Member},
    checksum::Sum,
    frame::Frame,
    hash,
    tables::{NextHop, Tables},
    verdict::DropReason,
    wire::{
        ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER, IPV6_HEADER, PROTOCOL_IPV4,
        PROTOCOL_IPV6, Packet, VLAN_TAG,
    },
};

/// TTL of outer headers (RFC 1700's default).
const TTL: u8 = 64;

/// Wraps a packet in a header towards its member.
#[inline(always)]
pub(crate) fn encap<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    member: &Member,
    hop: &NextHop,
) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let config = tables.config().ok_or(INTERNAL)?;
    if member.family == 6 {
        wrap_v6(frame, packet, config, member)?;
    } else {
        wrap_v4(frame, packet, config, member)?;
    }
    write_macs(frame, hop.macs)
}

#[inline(always)]
fn wrap_v4<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    config: &Config,
    member: &Member,
) -> Result<(), DropReason> {
    let total = packet.ip_len + IPV4_HEADER as u32;
    if total > 0xffff {
        return Err(DropReason::TooBig);
    }
    let (id, fragment, protocol) = if packet.is_v6() {
        (0, 0x4000_u16.to_be(), PROTOCOL_IPV6)
    } else {
        let [id, fragment]: [u16; 2] = frame.load(packet.network + 4).ok_or(INTERNAL)?;
        // The inner identification serves the outer header as well: it tells the packets of one
        // source apart. Of the flags only "don't fragment" is copied.
        (id, fragment & 0x4000_u16.to_be(), PROTOCOL_IPV4)
    };
    lower_ttl(frame, packet)?;
    frame.grow_head(IPV4_HEADER).ok_or(DropReason::NoHeadroom)?;
    move_tags(frame, packet.network, IPV4_HEADER, ETHERTYPE_IPV4)?;
    let first = u16::from_be_bytes([0x45, packet.tos]).to_be();
    let total = (total as u16).to_be();
    let ttl = u16::from_be_bytes([TTL, protocol]).to_be();
    let sum = Sum::default()
        .add16(first)
        .add16(total)
        .add16(id)
        .add16(fragment)
        .add16(ttl)
        .add_address(config.ipip_v4, false)
        .add_address(member.address, false);
    let at = packet.network;
    let words = [
        pair(first, total),
        pair(id, fragment),
        pair(ttl, sum.checksum()),
        config.ipip_v4.v4(),
        member.address.v4(),
    ];
    frame.store(at, words).ok_or(INTERNAL)
}

#[inline(always)]
fn wrap_v6<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    config: &Config,
    member: &Member,
) -> Result<(), DropReason> {
    if packet.ip_len > 0xffff {
        return Err(DropReason::TooBig);
    }
    let protocol = if packet.is_v6() {
        PROTOCOL_IPV6
    } else {
        PROTOCOL_IPV4
    };
    // A label of the flow lets the network spread flows over paths (RFC 6438).
    let label = hash::flow(&packet.key, config.flow_seed) as u32 & 0xf_ffff;
    lower_ttl(frame, packet)?;
    frame.grow_head(IPV6_HEADER).ok_or(DropReason::NoHeadroom)?;
    move_tags(frame, packet.network, IPV6_HEADER, ETHERTYPE_IPV6)?;
    let at = packet.network;
    let first = 6 << 28 | u32::from(packet.tos) << 20 | label;
    let second = packet.ip_len << 16 | u32::from(protocol) << 8 | u32::from(TTL);
    frame
        .store(at, [first.to_be(), second.to_be()])
        .ok_or(INTERNAL)?;
    store_address(frame, at + 8, config.ipip_v6)?;
    store_address(frame, at + 24, member.address)
}

/// Two halves in memory order as one word.
#[inline(always)]
const fn pair(first: u16, second: u16) -> u32 {
    (u16::from_le(first) as u32 | (u16::from_le(second) as u32) << 16).to_le()
}

#[inline(always)]
fn store_address<F: Frame>(frame: &mut F, at: usize, address: Address) -> Result<(), DropReason> {
    frame.store(at, address.words()).ok_or(INTERNAL)
}

/// Whoever forwards into a tunnel lowers the inner TTL (RFC 2003 section 3.1, RFC 2473 section 3.1).
#[inline(always)]
pub(super) fn lower_ttl<F: Frame>(frame: &mut F, packet: &Packet) -> Result<(), DropReason> {
    if packet.is_v6() {
        return frame
            .store(packet.network + 7, packet.ttl - 1)
            .ok_or(INTERNAL);
    }
    let at = packet.network + 8;
    let [old, checksum]: [u16; 2] = frame.load(at).ok_or(INTERNAL)?;
    let new = (u16::from_be(old).wrapping_sub(0x100)).to_be();
    let checksum = Sum::of_checksum(checksum).remove16(old).add16(new);
    frame.store(at, [new, checksum.checksum()]).ok_or(INTERNAL)
}

/// Moves the VLAN tags to the new front, behind the MAC addresses, and ends them with an EtherType.
#[inline(always)]
fn move_tags<F: Frame>(
    frame: &mut F,
    network: usize,
    by: usize,
    ethertype: u16,
) -> Result<(), DropReason> {
    const TAGS: usize = ETHERNET_HEADER - 2;
    if network > ETHERNET_HEADER {
        let tag: [u8; VLAN_TAG] = frame.load(TAGS + by).ok_or(INTERNAL)?;
        frame.store(TAGS, tag).ok_or(INTERNAL)?;
    }
    if network > ETHERNET_HEADER + VLAN_TAG {
        let tag: [u8; VLAN_TAG] = frame.load(TAGS + VLAN_TAG + by).ok_or(INTERNAL)?;
        frame.store(TAGS + VLAN_TAG, tag).ok_or(INTERNAL)?;
    }
    frame.store(network - 2, ethertype.to_be()).ok_or(INTERNAL)
}
