//! The program for first fragments.

use crate::{
    abi::{FragmentFate, ICMP_ERROR, LATER_FRAGMENT, MARTIAN},
    decide::{connection::Opaque, decide, fragments, service::is_address},
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, apply_recorded},
    wire::{self, Packet, PacketKind, is_martian},
};

/// Steers a first fragment. A later fragment is left to [`later_fragment`](super::later_fragment()), a
/// possible ICMP error to [`icmp_error`](super::icmp_error()).
#[inline(always)]
pub fn first_fragment<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.laundered(frame);
    if !network.is_fragment {
        return Outcome::tail_call(ICMP_ERROR, 0);
    }
    if network.offset != 0 {
        return Outcome::tail_call(LATER_FRAGMENT, 0);
    }
    let Some(packet) = wire::packet(frame, interface, &network) else {
        return Outcome::PASSED;
    };
    if is_martian(&packet.key) {
        return Outcome::tail_call(MARTIAN, 0);
    }
    let packet = tables.store_and_merge(Packet {
        kind: PacketKind::FirstFragment,
        ..packet
    });
    let verdict = decide(&packet, tables, &Opaque);
    let outcome = apply_recorded(frame, &packet, tables, verdict, None, |fate, member| {
        fragments::record(&packet, tables, fate, member)
    });
    if outcome.is_pass() && is_address(tables, packet.key.destination, packet.key.family) {
        // The rest would be taken for parts of something else. A packet that is not steered is not
        // lost for want of an entry.
        fragments::record(&packet, tables, FragmentFate::Passed, 0);
    }
    outcome.without_icmp_answer()
}
