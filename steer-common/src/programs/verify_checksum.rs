//! The program that verifies checksums of TCP segments before they are validated, open a flow or are answered.

use crate::{
    abi::{Config, NAT_CREATE, NAT_TCP, RESET, checksum_purpose, nat_flags},
    checksum::is_tcp_checksum_valid,
    frame::Frame,
    tables::Tables,
    transmit::Outcome,
    verdict::DropReason,
    wire::PacketKind,
};

/// Verifies the checksum of a TCP segment that is validated, opens a flow or is answered with a reset: a segment
/// that its receiver would discard has no effect here. `argument` is a [`checksum_purpose`], or the member of a new flow.
#[inline(always)]
pub fn verify_checksum<F: Frame, T: Tables>(frame: &F, tables: &T, argument: u16) -> Outcome {
    let packet = tables.stored_packet();
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    // Of the segments that are validated only those that open or close a connection need it.
    let is_verified = packet.is_tcp()
        && verifies(config)
        && (argument != checksum_purpose::VALIDATE || packet.is_control());
    // A fragment of a segment has no checksum of its own.
    let is_whole = packet.kind as u8 == PacketKind::Whole as u8;
    let is_valid = !is_verified || (is_whole && is_tcp_checksum_valid(frame, &packet));
    if argument == checksum_purpose::VALIDATE {
        return Outcome::tail_call(NAT_TCP, u16::from(is_valid));
    }
    if !is_valid {
        return Outcome::drop(DropReason::BadChecksum);
    }
    if argument < checksum_purpose::VALIDATE {
        return Outcome::tail_call(NAT_CREATE, argument);
    }
    Outcome::tail_call(RESET, argument)
}

/// Returns whether checksums of segments are verified.
#[inline(always)]
const fn verifies(config: &Config) -> bool {
    config.nat_flags & nat_flags::VERIFIES_CHECKSUMS != 0
}
