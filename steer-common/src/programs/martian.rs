//! The program for packets from sources that no packet from a network can have.

use crate::{
    decide::service::find_service, frame::Frame, tables::Tables, transmit::Outcome,
    verdict::DropReason, wire,
};

/// Drops a packet from such a source if it is for a service, and passes others to the kernel.
#[inline(always)]
pub fn martian<F: Frame, T: Tables>(frame: &F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.laundered(frame);
    let Some(packet) = wire::packet(frame, interface, &network) else {
        return Outcome::PASSED;
    };
    let service = tables
        .config()
        .and_then(|config| find_service(&packet, tables, config));
    if service.is_none() {
        return Outcome::PASSED;
    }
    Outcome::drop(DropReason::MartianSource)
}
