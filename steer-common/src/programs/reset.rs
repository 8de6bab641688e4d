//! The program that answers TCP segments with resets.

use crate::{
    abi::{checksum_purpose, nat_state},
    checksum::is_header_valid,
    decide::nat,
    frame::Frame,
    rewrite,
    tables::Tables,
    transmit::Outcome,
    verdict::DropReason,
};

/// Answers a TCP segment, whose checksum was verified, with a reset. `argument` is a
/// [`checksum_purpose`]: the end of the connection that gets the reset.
#[inline(always)]
pub fn reset<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    argument: u16,
) -> Outcome {
    let packet = tables.stored_packet();
    if !packet.is_tcp() || !is_header_valid(frame, &packet) {
        return Outcome::drop(DropReason::BadChecksum);
    }
    if argument != checksum_purpose::RESET_CLIENT {
        let done = rewrite::reset(frame, &packet);
        return answered(tables, done, interface);
    }
    let found = tables.with_reverse(&packet.key, |entry| {
        entry.state |= nat_state::RESET;
        (
            nat::to_client(entry),
            entry.client_hop,
            entry.forward_key(&packet.key),
        )
    });
    let Some((ends, back, key)) = found else {
        return Outcome::drop(DropReason::NatUnknownFlow);
    };
    tables.with_forward(&key, |forward| forward.peer_state |= nat_state::RESET);
    let done = rewrite::reset_client(frame, &packet, &ends, &back);
    answered(tables, done, back.interface)
}

/// The answer is sent, but the segment itself is dropped.
#[inline(always)]
fn answered<T: Tables>(tables: &T, done: Result<(), DropReason>, interface: u32) -> Outcome {
    if done.is_ok() {
        tables.count_drop(DropReason::Reset);
    }
    Outcome::from_rewrite(done, interface)
}
