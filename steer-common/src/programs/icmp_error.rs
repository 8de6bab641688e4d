//! The program for ICMP errors about packets of steered flows: they go where the flow goes.

use crate::{
    decide::{connection::Opaque, decide},
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, apply},
    wire::{self, parse_icmp_error},
};

/// Sends an ICMP error where its flow goes.
#[inline(always)]
pub fn icmp_error<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.laundered(frame);
    tables.trace_flow(&network.flow());
    let Some(packet) = parse_icmp_error(frame, interface, &network) else {
        return Outcome::PASSED;
    };
    let packet = tables.store_and_merge(packet);
    let verdict = decide(&packet, tables, &Opaque);
    apply(frame, &packet, tables, verdict, None).without_icmp_answer()
}
