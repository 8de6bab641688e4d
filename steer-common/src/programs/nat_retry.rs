//! The program that sends a SYN to another member, because its member under `nat` did not answer.

use crate::{
    abi::NAT_CREATE,
    decide::{
        assign, class::classify, connection::Deferred, quic_header::ConnectionHint,
        service::find_service,
    },
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, apply},
    verdict::{DropReason, Verdict},
};

/// Sends a validated segment whose flow has left the nat table to a member. `avoid` is one that did not
/// answer its SYN, or 0.
#[inline(always)]
pub fn nat_retry<F: Frame, T: Tables>(frame: &mut F, tables: &T, avoid: u16) -> Outcome {
    let packet = tables.stored_packet();
    let Some(config) = tables.config() else {
        return Outcome::PASSED;
    };
    let Some(service) = find_service(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    let Some(service) = classify(&packet, tables, service) else {
        return Outcome::drop(DropReason::Internal);
    };
    let classifier = &Deferred(&*frame);
    let hint = (ConnectionHint::NONE, avoid);
    let verdict = assign(
        &packet, tables, classifier, hint, config, service, &mut None,
    );
    if let Verdict::NatCreate(target) = verdict
        && packet.ttl > 1
    {
        // Its checksum was verified.
        return Outcome::tail_call(NAT_CREATE, target.id);
    }
    apply(frame, &packet, tables, verdict, None)
}
