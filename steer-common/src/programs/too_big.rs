//! The program that answers packets which are too big for the path to their member.

use crate::{
    checksum::is_header_valid, frame::Frame, rewrite, tables::Tables, transmit::Outcome,
    verdict::DropReason,
};

/// Informs the sender of a packet that the path to its member has an MTU of `mtu` bytes (RFC 1191,
/// RFC 8201).
#[inline(always)]
pub fn too_big<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    mtu: u16,
) -> Outcome {
    if !tables.may_send_icmp() {
        return Outcome::drop(DropReason::TooBig);
    }
    let packet = tables.stored_packet();
    if !is_header_valid(frame, &packet) {
        return Outcome::drop(DropReason::BadChecksum);
    }
    let done = rewrite::too_big(frame, &packet, u32::from(mtu));
    if done.is_ok() {
        tables.count_drop(DropReason::TooBig);
    }
    Outcome::from_rewrite(done, interface)
}
