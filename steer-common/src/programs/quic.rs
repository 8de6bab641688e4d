//! The program for packets of QUIC services.

use crate::{
    decide::{connection::WithHeader, decide_for},
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, apply},
};

/// Processes a whole packet for a QUIC service. `member` is the one named by its decrypted
/// connection id, or 0.
#[inline(always)]
pub fn quic<F: Frame, T: Tables>(frame: &mut F, tables: &T, member: u16) -> Outcome {
    let packet = tables.stored_packet();
    let inside = WithHeader {
        packet: &packet,
        frame,
        tables,
        member,
    };
    let mut chosen = None;
    let verdict = decide_for(&packet, tables, &inside, &mut chosen);
    apply(frame, &packet, tables, verdict, chosen)
}
