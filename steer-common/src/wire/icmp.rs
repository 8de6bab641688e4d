//! ICMP errors (RFC 792, RFC 4443), parsed as packets of the flows that they are about.

use super::{
    ip::Network,
    martian::is_martian_source,
    packet::{Packet, PacketKind, inner, without_transport},
    protocol::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP},
    transport::ACK,
};
use crate::{abi::FlowKey, frame::Frame};

/// Length of the header of an ICMP error, after which it quotes a packet.
pub(crate) const ICMP_HEADER: usize = 8;

/// Returns whether an ICMP message of this type is an error that quotes a packet.
#[inline(always)]
const fn is_error(family: u8, kind: u8) -> bool {
    if family == 4 {
        // Destination unreachable, time exceeded, parameter problem. Redirects and source quench
        // (RFC 6633) do not concern the flow's other end.
        matches!(kind, 3 | 11 | 12)
    } else {
        // RFC 4443 section 2.1: errors have the upper bit clear; 0 is reserved.
        kind != 0 && kind < 128
    }
}

/// Parses the error as a packet of the quoted flow. `None` if it is not an error, or quotes too
/// little.
#[inline(always)]
pub(crate) fn parse_icmp_error<F: Frame>(
    frame: &F,
    interface: u32,
    network: &Network,
) -> Option<Packet> {
    let expected = if network.family == 4 {
        PROTOCOL_ICMP
    } else {
        PROTOCOL_ICMPV6
    };
    if network.protocol != expected {
        return None;
    }
    // The kernel drops it.
    if is_martian_source(network.source, network.family) {
        return None;
    }
    let [kind, _] = frame.load::<u16>(network.transport)?.to_ne_bytes();
    if !is_error(network.family, kind) {
        return None;
    }
    let quoted = inner(frame, network.family, network.transport + ICMP_HEADER)?.laundered(frame);
    // The recipient of the error must be the sender of the quoted packet; anything else is forged.
    let is_transport = quoted.protocol == PROTOCOL_TCP || quoted.protocol == PROTOCOL_UDP;
    if quoted.source != network.destination || quoted.offset != 0 || !is_transport {
        return None;
    }
    let [from, to]: [u16; 2] = frame.load(quoted.transport)?;
    let packet = without_transport(frame, interface, network, quoted.protocol, [0, 0])?;
    Some(Packet {
        key: FlowKey {
            source: quoted.destination,
            source_port: u16::from_be(to),
            destination_port: u16::from_be(from),
            ..packet.key
        },
        quoted: quoted.transport,
        // A packet of an open flow.
        tcp_flags: ACK,
        kind: PacketKind::IcmpError,
        ..packet
    })
}
