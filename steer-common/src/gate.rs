//! The moment in which programs of another version take over.

use crate::{
    decide::is_address, frame::Frame, process::Outcome, tables::Tables, verdict::DropReason, wire,
};

/// Drops what is steered, so that nothing changes while the last entries are copied; senders repeat it.
/// All else passes.
#[inline(always)]
pub fn hold<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.hidden(frame);
    if is_address(tables, network.destination, network.family) {
        return Outcome::drop(DropReason::Takeover);
    }
    Outcome::PASSED
}
