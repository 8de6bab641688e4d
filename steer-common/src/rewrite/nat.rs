//! Rewriting of addresses and ports (RFC 3022), with checksums kept right incrementally.

use super::{INTERNAL, encap::lower_ttl, write_macs};
use crate::{
    abi::{Address, NatForward, NatReverse},
    checksum::Sum,
    frame::{Frame, Plain},
    tables::NextHop,
    verdict::DropReason,
    wire::Packet,
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
    nat: &NatForward,
    hop: &NextHop,
) -> Result<(), DropReason> {
    let ends = Ends {
        source: nat.source,
        destination: nat.backend,
        source_port: nat.source_port,
        destination_port: nat.backend_port,
    };
    translate(frame, packet, &ends)?;
    write_macs(frame, hop.macs)
}

/// Sends a backend's packet to the client, by the way its packets came.
#[inline(always)]
pub(crate) fn back<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    nat: &NatReverse,
) -> Result<(), DropReason> {
    let ends = Ends {
        source: nat.vip,
        destination: nat.client,
        source_port: nat.vip_port,
        destination_port: nat.client_port,
    };
    translate(frame, packet, &ends)?;
    write_macs(frame, nat.macs)
}

struct Ends {
    source: Address,
    destination: Address,
    source_port: u16,
    destination_port: u16,
}

#[inline(always)]
fn translate<F: Frame>(frame: &mut F, packet: &Packet, ends: &Ends) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let v6 = packet.is_v6();
    let addresses = Sum::default()
        .remove_address(packet.key.source, v6)
        .remove_address(packet.key.destination, v6)
        .add_address(ends.source, v6)
        .add_address(ends.destination, v6);
    lower_ttl(frame, packet)?;
    let at = packet.network;
    if v6 {
        store(frame, at + 8, ends.source.words())?;
        store(frame, at + 24, ends.destination.words())?;
    } else {
        let checksum: u16 = frame.load(at + 10).ok_or(INTERNAL)?;
        let checksum = Sum::of_checksum(checksum).add(addresses).checksum();
        store(frame, at + 10, checksum)?;
        store(frame, at + 12, [ends.source.v4(), ends.destination.v4()])?;
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
        // The sender computed none (RFC 768), and none it stays.
        return Ok(());
    }
    let checksum = match Sum::of_checksum(checksum).add(ports).checksum() {
        // Zero means "none"; its other form in one's complement stands for the value.
        0 => 0xffff,
        checksum => checksum,
    };
    store(frame, at + UDP_CHECKSUM, checksum)
}

#[inline(always)]
fn store<F: Frame, T: Plain>(frame: &mut F, at: usize, value: T) -> Result<(), DropReason> {
    frame.store(at, value).ok_or(INTERNAL)
}
