//! The program that drops packets during the cut-over to programs of another version.

use crate::{
    decide::service::is_address, frame::Frame, tables::Tables, transmit::Outcome,
    verdict::DropReason, wire,
};

/// Drops steered packets, so that nothing changes while the last entries are copied; senders repeat
/// them. All other packets pass.
#[inline(always)]
pub fn cutover<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.laundered(frame);
    if is_address(tables, network.destination, network.family) {
        return Outcome::drop(DropReason::Takeover);
    }
    Outcome::PASSED
}
