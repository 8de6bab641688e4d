//! The program that sends packets of QUIC to a member with rewritten addresses.

use crate::{
    abi::{FlowKey, NAT_CREATE},
    decide::{connection::KnownMember, fragments, nat, service::find_service},
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, apply_recorded},
    verdict::DropReason,
    wire::{Packet, PacketKind},
};

/// Sends a packet of QUIC to a member with rewritten addresses. The choice is made: connections of
/// one 5-tuple may go to several members, each with its own addresses and ports.
#[inline(always)]
pub fn nat_quic<F: Frame, T: Tables>(frame: &mut F, tables: &T, member: u16) -> Outcome {
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = tables.stored_packet();
    let packet = Packet {
        key: FlowKey {
            member,
            ..packet.key
        },
        ..packet
    };
    tables.store_packet(&packet);
    let Some(service) = find_service(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    let part = packet.kind as u8;
    match nat::lookup(&packet, tables, &KnownMember, config, service) {
        nat::Lookup::Decided(verdict) => {
            let outcome = apply_recorded(frame, &packet, tables, verdict, None, |fate, member| {
                part != PacketKind::FirstFragment as u8
                    || fragments::record(&packet, tables, fate, member)
            });
            if part == PacketKind::Whole as u8 {
                outcome
            } else {
                outcome.without_icmp_answer()
            }
        }
        // The error is about a packet that nobody behind this node sent.
        nat::Lookup::Unknown { .. } if part == PacketKind::IcmpError as u8 => Outcome::PASSED,
        // It would take a port, and be dropped with it.
        nat::Lookup::Unknown { .. } if packet.ttl <= 1 && part == PacketKind::Whole as u8 => {
            Outcome::TTL_EXPIRED
        }
        nat::Lookup::Unknown { .. } if packet.ttl <= 1 => Outcome::drop(DropReason::TtlExpired),
        nat::Lookup::Unknown { .. } => Outcome::tail_call(NAT_CREATE, member),
    }
}
