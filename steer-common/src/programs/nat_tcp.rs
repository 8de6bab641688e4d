//! The program for TCP segments under `nat` that open or close a connection, or whose sequence numbers are
//! not near the last ones: they are validated before they change anything. They are few.

use crate::{
    abi::{NAT_RETRY, Service, VERIFY_CHECKSUM, checksum_purpose, service_flags},
    decide::{class::classify, connection::QuicClassifier, nat, service::find_service},
    frame::Frame,
    tables::{Step, Tables},
    transmit::{Outcome, forward, reply},
    verdict::{DropReason, Verdict},
    wire::Packet,
};

/// A segment with a verified checksum.
struct WithChecksum<'a, F> {
    frame: &'a F,
    verified: bool,
}

impl<F: Frame> QuicClassifier for WithChecksum<'_, F> {
    const VALIDATES_TCP: bool = true;
    const IS_WHOLE: bool = false;

    #[inline(always)]
    fn tcp_numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.tcp_numbers(self.frame)
    }

    // Under `nat` it is TCP, and QUIC never is.
    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        false
    }

    #[inline(always)]
    fn is_checksum_valid(&self) -> bool {
        self.verified
    }
}

/// Validates a TCP segment, and sends it on. `verified` is 1 if its checksum is valid, as far as that
/// matters.
#[inline(always)]
pub fn nat_tcp<F: Frame, T: Tables>(frame: &mut F, tables: &T, verified: u16) -> Outcome {
    let packet = tables.stored_packet();
    let segment = WithChecksum {
        frame: &*frame,
        verified: verified != 0,
    };
    tables.trace_flow(&packet.key);
    let Some(config) = tables.config() else {
        return Outcome::PASSED;
    };
    let Some(service) = find_service(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    let verdict = if service.flags & service_flags::NAT_SOURCE != 0 {
        nat::reply(&packet, tables, &segment, config)
    } else {
        tables.trace_step(Step::Service(service.id));
        let Some(service) = classify(&packet, tables, service) else {
            return Outcome::drop(DropReason::Internal);
        };
        match nat::lookup(&packet, tables, &segment, config, service) {
            nat::Lookup::Decided(verdict) => verdict,
            nat::Lookup::Unknown { .. } if !segment.verified => {
                return Outcome::drop(DropReason::BadChecksum);
            }
            nat::Lookup::Unknown { avoid } => return Outcome::tail_call(NAT_RETRY, avoid),
        }
    };
    match verdict {
        Verdict::Pass => Outcome::PASSED,
        Verdict::Drop(reason) => Outcome::drop(reason),
        Verdict::NatForward(target, ends) => forward(frame, &packet, tables, target, &ends),
        Verdict::NatReply(member, ends, back) => {
            reply(frame, &packet, tables, member, &ends, &back)
        }
        Verdict::Reset => Outcome::tail_call(VERIFY_CHECKSUM, checksum_purpose::RESET_SENDER),
        Verdict::Encap(_)
        | Verdict::NatCreate(_)
        | Verdict::Quic
        | Verdict::QuicDecrypt
        | Verdict::NatQuic(_)
        | Verdict::NatTcp
        | Verdict::NatRevalidate => Outcome::drop(DropReason::Internal),
    }
}
