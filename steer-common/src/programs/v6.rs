//! The program for IPv6 packets with the usual headers.

use super::inline::Inline;
use crate::{
    abi::{GENERAL, MARTIAN},
    decide::decide_for,
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, apply_and_store},
    wire::{is_martian, parse_v6},
};

/// Steers an IPv6 packet with the usual headers. Others are left to [`general`](super::general()).
#[inline(always)]
pub fn v6<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse_v6(frame, interface) else {
        return Outcome::tail_call(GENERAL, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::tail_call(MARTIAN, 0);
    }
    let mut member = None;
    let verdict = decide_for(&packet, tables, &Inline(&*frame), &mut member);
    apply_and_store(frame, &packet, tables, verdict, member)
}
