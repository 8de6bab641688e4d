//! Translation of an ICMP error, outside and in the quoted packet (RFC 5508 section 4.2).

use super::write::{INTERNAL, store};
use crate::{
    checksum::Sum,
    frame::Frame,
    verdict::{DropReason, Endpoints},
    wire::{ICMP_HEADER, Packet},
};

/// Offset of the checksum in an ICMP header.
const ICMP_CHECKSUM: usize = 2;

/// Rewrites the quoted packet, which went the other way, and the checksum over it. `outside` is the
/// change of the sum of the outer addresses.
#[inline(always)]
pub(super) fn translate_quote<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    ends: &Endpoints,
    outside: Sum,
) -> Result<(), DropReason> {
    let v6 = packet.is_v6();
    let at = packet.transport + ICMP_HEADER;
    let addresses = Sum::default()
        .remove_address(packet.key.destination, v6)
        .remove_address(packet.key.source, v6)
        .add_address(ends.destination, v6)
        .add_address(ends.source, v6);
    let ports = Sum::default()
        .remove16(packet.key.destination_port.to_be())
        .remove16(packet.key.source_port.to_be())
        .add16(ends.destination_port.to_be())
        .add16(ends.source_port.to_be());
    let mut sum = Sum::default().add(addresses).add(ports);
    if v6 {
        sum = sum.add(outside);
        store(frame, at + 8, ends.destination.words())?;
        store(frame, at + 24, ends.source.words())?;
    } else {
        let old: u16 = frame.load(at + 10).ok_or(INTERNAL)?;
        let new = Sum::of_checksum(old).add(addresses).checksum();
        sum = sum.remove16(old).add16(new);
        store(frame, at + 10, new)?;
        store(frame, at + 12, [ends.destination.v4(), ends.source.v4()])?;
    }
    let transport = packet.quoted;
    let new_ports = [ends.destination_port.to_be(), ends.source_port.to_be()];
    store(frame, transport, new_ports)?;
    // A quoted TCP header often ends before the checksum.
    let field = transport + if packet.is_tcp() { 16 } else { 6 };
    let end = packet.network + packet.ip_len as usize;
    let quoted = if field + 2 <= end {
        frame.load::<u16>(field)
    } else {
        None
    };
    if let Some(old) = quoted
        && (old != 0 || packet.is_tcp())
    {
        let new = match Sum::of_checksum(old).add(addresses).add(ports).checksum() {
            0 if !packet.is_tcp() => 0xffff,
            new => new,
        };
        sum = sum.remove16(old).add16(new);
        store(frame, field, new)?;
    }
    let field = packet.transport + ICMP_CHECKSUM;
    let old: u16 = frame.load(field).ok_or(INTERNAL)?;
    store(frame, field, Sum::of_checksum(old).add(sum).checksum())
}
