//! The program for packets whose TTL or hop limit expires at this node: their sender is informed (RFC 792, RFC 4443
//! section 3.3), so that traceroute shows the node.

use crate::{
    abi::{Address, FlowKey, LinkKey},
    frame::Frame,
    rewrite,
    tables::Tables,
    transmit::Outcome,
    verdict::DropReason,
    wire::{ETHERNET_HEADER, Packet, PacketKind},
};

/// Answers a packet with an expired TTL, from this node's address on the incoming link.
#[inline(always)]
pub fn time_exceeded<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    const DROPPED: Outcome = Outcome::drop(DropReason::TtlExpired);
    let packet = tables.stored_packet();
    let is_whole = packet.kind as u8 == PacketKind::Whole as u8;
    if !packet.well_formed || !is_whole || !is_answerable(&packet) {
        return DROPPED;
    }
    let vlan = if packet.network == ETHERNET_HEADER {
        0
    } else {
        u16::from_be(frame.load(ETHERNET_HEADER).unwrap_or(0)) & 0xfff
    };
    let link = LinkKey {
        interface,
        vlan,
        _pad: 0,
    };
    let Some(from) = tables
        .icmp_source(&link)
        .and_then(|source| source.address(packet.is_v6()))
    else {
        return DROPPED;
    };
    if !tables.may_send_icmp() {
        return DROPPED;
    }
    let packet = Packet {
        key: FlowKey {
            destination: from,
            ..packet.key
        },
        ..packet
    };
    let done = rewrite::time_exceeded(frame, &packet);
    if done.is_ok() {
        tables.count_drop(DropReason::TtlExpired);
    }
    Outcome::from_rewrite(done, interface)
}

/// Returns whether an ICMP error may be sent about a packet: to one host, about a packet to one
/// host (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
#[inline(always)]
fn is_answerable(packet: &Packet) -> bool {
    let [first, ..] = packet.macs.words().0.to_ne_bytes();
    let to_group = first & 1 != 0;
    !to_group && is_one_host(packet.key.source, packet.is_v6())
}

/// Returns whether an address is that of a single host on a network.
#[inline(always)]
fn is_one_host(address: Address, v6: bool) -> bool {
    if v6 {
        let [high, low] = address.words();
        let first = high.to_ne_bytes()[0];
        // Neither unspecified nor the loopback, and no group.
        let is_low = high == 0 && u64::from_be(low) <= 1;
        return first != 0xff && !is_low;
    }
    let first = address.v4().to_ne_bytes()[0];
    // Neither "this network" nor the loopback; groups, class E and the broadcast come last.
    first != 0 && first != 127 && first < 224
}
