//! The program for packets with VLAN tags, options or extension headers.

use crate::{
    abi::{FIRST_FRAGMENT, MARTIAN},
    decide::{connection::Deferred, decide},
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, apply},
    wire::{is_martian, parse},
};

/// Steers a packet that may have VLAN tags, options or extension headers. Fragments and ICMP errors are left to
/// [`first_fragment`](super::first_fragment()).
#[inline(always)]
pub fn general<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse(frame, interface) else {
        return Outcome::tail_call(FIRST_FRAGMENT, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::tail_call(MARTIAN, 0);
    }
    let packet = tables.store_and_merge(packet);
    let verdict = decide(&packet, tables, &Deferred(&*frame));
    apply(frame, &packet, tables, verdict, None)
}
