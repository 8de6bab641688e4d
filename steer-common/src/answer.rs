//! The program that answers TCP segments with resets.

use crate::{
    abi::{FlowKey, nat_state},
    checksum::is_tcp_right,
    frame::Frame,
    integrity::header_is_intact,
    nat,
    process::Outcome,
    rewrite,
    segment::verifies,
    tables::Tables,
    verdict::DropReason,
    wire,
};

/// Argument of the program: the segment's sender gets the reset.
pub(crate) const SENDER: u16 = 0;
/// Argument of the program: the segment is a backend's, and its client gets the reset.
pub(crate) const CLIENT: u16 = 1;

/// Answers a TCP segment with a reset, unless its checksums are wrong. `argument` tells who gets
/// it.
#[inline(always)]
pub fn answer_reset<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    argument: u16,
) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::drop(DropReason::Internal);
    };
    let network = network.hidden(frame);
    let Some(packet) = wire::packet(frame, interface, &network) else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = packet.hidden(frame);
    let asks = tables.config().is_some_and(verifies);
    let is_right = !asks || is_tcp_right(frame, &packet);
    if !packet.is_tcp() || !header_is_intact(frame, &packet) || !is_right {
        return Outcome::drop(DropReason::BadChecksum);
    }
    if argument != CLIENT {
        let done = rewrite::reset(frame, &packet);
        return answered(tables, done, interface);
    }
    let found = tables.with_reverse(&packet.key, |entry| {
        entry.state |= nat_state::RESET;
        (nat::to_client(entry), entry.back, entry.key_member)
    });
    let Some((ends, back, member)) = found else {
        return Outcome::drop(DropReason::NatUnknownFlow);
    };
    let key = FlowKey {
        source: ends.destination,
        destination: ends.source,
        source_port: ends.destination_port,
        destination_port: ends.source_port,
        member,
        ..packet.key
    };
    tables.with_forward(&key, |forward| forward.told |= nat_state::RESET);
    let done = rewrite::reset_client(frame, &packet, &ends, &back);
    answered(tables, done, back.interface)
}

/// The answer is sent, but the segment itself is dropped.
#[inline(always)]
fn answered<T: Tables>(tables: &T, done: Result<(), DropReason>, interface: u32) -> Outcome {
    if done.is_ok() {
        tables.count_drop(DropReason::Reset);
    }
    Outcome::of(done, interface)
}
