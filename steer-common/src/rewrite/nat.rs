//! Rewriting of addresses and ports (RFC 3022), with incremental checksum updates.

use super::{
    encap::lower_ttl,
    link::{Link, relink},
    quote::translate_quote,
    write::{INTERNAL, ethertype, store},
};
use crate::{
    abi::{Address, ClientNextHop},
    checksum::Sum,
    frame::Frame,
    tables::NextHop,
    verdict::{DropReason, Endpoints},
    wire::{Packet, PacketKind},
};

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: usize = 6;

/// Sends a client's packet to its member.
#[inline(always)]
pub(crate) fn forward<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    ends: &Endpoints,
    hop: &NextHop,
) -> Result<(), DropReason> {
    translate(frame, packet, ends)?;
    relink(
        frame,
        packet.network,
        0,
        &Link::to_hop(hop),
        ethertype(packet),
    )
    .map(drop)
}

/// Sends a backend's packet to the client on its return path.
#[inline(always)]
pub(crate) fn reply<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    ends: &Endpoints,
    back: &ClientNextHop,
) -> Result<(), DropReason> {
    translate(frame, packet, ends)?;
    relink(
        frame,
        packet.network,
        0,
        &Link::back(back),
        ethertype(packet),
    )
    .map(drop)
}

#[inline(always)]
fn translate<F: Frame>(frame: &mut F, packet: &Packet, ends: &Endpoints) -> Result<(), DropReason> {
    let v6 = packet.is_v6();
    let at = packet.network;
    let is_icmp_error = packet.kind as u8 == PacketKind::IcmpError as u8;
    // The sender of an error need not be an end of the flow.
    let source = if is_icmp_error {
        address_at(frame, at, v6)?
    } else {
        packet.key.source
    };
    let addresses = Sum::default()
        .remove_address(source, v6)
        .remove_address(packet.key.destination, v6)
        .add_address(ends.source, v6)
        .add_address(ends.destination, v6);
    lower_ttl(frame, packet)?;
    if v6 {
        store(frame, at + 8, ends.source.words())?;
        store(frame, at + 24, ends.destination.words())?;
    } else {
        let checksum: u16 = frame.load(at + 10).ok_or(INTERNAL)?;
        let checksum = Sum::of_checksum(checksum).add(addresses).checksum();
        store(frame, at + 10, checksum)?;
        store(frame, at + 12, [ends.source.v4(), ends.destination.v4()])?;
    }
    if packet.kind as u8 == PacketKind::LaterFragment as u8 {
        return Ok(());
    }
    if is_icmp_error {
        return translate_quote(frame, packet, ends, addresses);
    }
    let ports = addresses
        .remove16(packet.key.source_port.to_be())
        .remove16(packet.key.destination_port.to_be())
        .add16(ends.source_port.to_be())
        .add16(ends.destination_port.to_be());
    let at = packet.transport;
    store(
        frame,
        at,
        [ends.source_port.to_be(), ends.destination_port.to_be()],
    )?;
    if packet.is_tcp() {
        let checksum: u16 = frame.load(at + TCP_CHECKSUM).ok_or(INTERNAL)?;
        let checksum = Sum::of_checksum(checksum).add(ports).checksum();
        return store(frame, at + TCP_CHECKSUM, checksum);
    }
    let checksum: u16 = frame.load(at + UDP_CHECKSUM).ok_or(INTERNAL)?;
    if checksum == 0 && !v6 {
        // The sender computed none (RFC 768), and it stays so.
        return Ok(());
    }
    let checksum = match Sum::of_checksum(checksum).add(ports).checksum() {
        // Zero means "none"; its other form in one's complement stands for the value.
        0 => 0xffff,
        checksum => checksum,
    };
    store(frame, at + UDP_CHECKSUM, checksum)
}

/// Returns the source address of an IP header.
#[inline(always)]
fn address_at<F: Frame>(frame: &F, at: usize, v6: bool) -> Result<Address, DropReason> {
    if v6 {
        let words = frame.load(at + 8).ok_or(INTERNAL)?;
        return Ok(Address::from_v6(words));
    }
    let word = frame.load(at + 12).ok_or(INTERNAL)?;
    Ok(Address::from_v4(word))
}
