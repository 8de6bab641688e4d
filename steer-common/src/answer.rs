//! The program that answers TCP segments with resets.

use crate::{
    abi::nat_state, frame::Frame, integrity::header_is_intact, nat, process::Outcome, rewrite,
    segment::RESET_CLIENT, tables::Tables, verdict::DropReason,
};

/// Answers a TCP segment, whose checksum was verified, with a reset. `argument` says who gets it.
#[inline(always)]
pub fn answer_reset<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    argument: u16,
) -> Outcome {
    let packet = tables.kept_packet();
    if !packet.is_tcp() || !header_is_intact(frame, &packet) {
        return Outcome::drop(DropReason::BadChecksum);
    }
    if argument != RESET_CLIENT {
        let done = rewrite::reset(frame, &packet);
        return answered(tables, done, interface);
    }
    let found = tables.with_reverse(&packet.key, |entry| {
        entry.state |= nat_state::RESET;
        (
            nat::to_client(entry),
            entry.back,
            entry.forward_key(&packet.key),
        )
    });
    let Some((ends, back, key)) = found else {
        return Outcome::drop(DropReason::NatUnknownFlow);
    };
    tables.with_forward(&key, |forward| forward.told |= nat_state::RESET);
    let done = rewrite::reset_client(frame, &packet, &ends, &back);
    answered(tables, done, back.interface)
}

/// The answer is sent, but the segment itself goes nowhere.
#[inline(always)]
fn answered<T: Tables>(tables: &T, done: Result<(), DropReason>, interface: u32) -> Outcome {
    if done.is_ok() {
        tables.count_drop(DropReason::Reset);
    }
    Outcome::of(done, interface)
}
