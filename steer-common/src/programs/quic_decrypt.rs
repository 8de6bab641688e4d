//! The program that decrypts connection ids of QUIC.

use crate::{
    abi::QUIC,
    decide::{quic_header::decrypted_member, service::find_service},
    frame::Frame,
    tables::Tables,
    transmit::Outcome,
};

/// Decrypts the connection id of a whole packet for a QUIC service, and leaves the packet to
/// [`quic`](super::quic()).
#[inline(always)]
pub fn quic_decrypt<F: Frame, T: Tables>(frame: &F, tables: &T) -> Outcome {
    let packet = tables.stored_packet();
    let Some(config) = tables.config() else {
        return Outcome::PASSED;
    };
    let Some(service) = find_service(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    Outcome::tail_call(
        QUIC,
        decrypted_member(&packet, frame, tables, config, service),
    )
}
