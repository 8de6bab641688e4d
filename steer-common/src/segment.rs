//! TCP segments under `nat` that open or close a connection, or whose sequence numbers are not near
//! the last ones: they are examined closely before they change anything. They are few.

use crate::{
    abi::{Config, MAIN, OPEN, RESET, RETRY, Service, nat_flags, service_flags},
    answer,
    checksum::is_tcp_right,
    class::classify,
    decide::{assign, find},
    frame::Frame,
    nat,
    process::{Outcome, act, forward, give_back},
    quic::{Elsewhere, Look, Said},
    tables::{Step, Tables},
    verdict::{DropReason, Verdict},
    wire::{self, Packet, parse},
};

/// A segment with a verified checksum.
struct Judged<'a, F> {
    frame: &'a F,
    verified: bool,
}

impl<F: Frame> Look for Judged<'_, F> {
    const JUDGES: bool = true;
    const WHOLE: bool = false;

    #[inline(always)]
    fn numbers(&self, packet: &Packet) -> Option<[u32; 2]> {
        packet.numbers(self.frame)
    }

    // Under `nat` it is TCP, and QUIC never is.
    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        false
    }

    #[inline(always)]
    fn is_verified(&self) -> bool {
        self.verified
    }
}

/// Processes a TCP segment that needs a close examination.
#[inline(always)]
pub fn segment<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse(frame, interface) else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = packet.hidden(frame);
    let verified = is_verified(frame, &packet, tables);
    let judged = Judged {
        frame: &*frame,
        verified: frame.opaque(u64::from(verified)) != 0,
    };
    tables.see(&packet.key);
    let Some(config) = tables.config() else {
        return Outcome::PASSED;
    };
    let Some(service) = find(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    let verdict = if service.flags & service_flags::NAT_SOURCE != 0 {
        nat::reply(&packet, tables, &judged, config)
    } else {
        tables.note(Step::Service(service.id));
        let Some(service) = classify(&packet, tables, service) else {
            return Outcome::drop(DropReason::Internal);
        };
        match nat::known(&packet, tables, &judged, config, service) {
            nat::Known::Decided(verdict) => verdict,
            // It starts again, as an unknown flow.
            nat::Known::Unknown { avoid: 0 } => return Outcome::hand_over(MAIN, 0),
            nat::Known::Unknown { avoid } => return Outcome::hand_over(RETRY, avoid),
        }
    };
    match verdict {
        Verdict::Pass => Outcome::PASSED,
        Verdict::Drop(reason) => Outcome::drop(reason),
        Verdict::Forward(target, ends) => forward(frame, &packet, tables, target, &ends),
        Verdict::Return(member, ends, back) => {
            give_back(frame, &packet, tables, member, &ends, &back)
        }
        Verdict::Reset => Outcome::hand_over(RESET, answer::SENDER),
        _ => Outcome::drop(DropReason::Internal),
    }
}

/// Lets a packet open a flow if its checksum is correct: its receiver would discard it otherwise.
/// `argument` is passed on.
#[inline(always)]
pub fn verify<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    argument: u16,
) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::drop(DropReason::Internal);
    };
    let network = network.hidden(frame);
    let Some(packet) = wire::packet(frame, interface, &network) else {
        return Outcome::drop(DropReason::Internal);
    };
    let asks = packet.is_tcp() && tables.config().is_some_and(verifies);
    // A fragment of a segment has no checksum of its own.
    if asks && (network.is_fragment || !is_tcp_right(frame, &packet)) {
        return Outcome::drop(DropReason::BadChecksum);
    }
    Outcome::hand_over(OPEN, argument)
}

/// Sends the SYN of a flow to another member than the one that did not answer.
#[inline(always)]
pub fn retry<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    tables: &T,
    avoid: u16,
) -> Outcome {
    let Some(packet) = parse(frame, interface) else {
        return Outcome::drop(DropReason::Internal);
    };
    let packet = packet.hidden(frame);
    let Some(config) = tables.config() else {
        return Outcome::PASSED;
    };
    let Some(service) = find(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    let Some(service) = classify(&packet, tables, service) else {
        return Outcome::drop(DropReason::Internal);
    };
    let look = &Elsewhere(&*frame);
    let said = (Said::NOTHING, avoid);
    let verdict = assign(&packet, tables, look, said, config, service, &mut None);
    act(frame, &packet, tables, verdict, None)
}

/// Returns whether the checksum of a segment is correct. Verified only for segments that open or
/// close a connection, and if configured.
#[inline(always)]
fn is_verified<F: Frame, T: Tables>(frame: &F, packet: &Packet, tables: &T) -> bool {
    let Some(config) = tables.config() else {
        return false;
    };
    !packet.is_control() || !verifies(config) || is_tcp_right(frame, packet)
}

/// Returns whether checksums of segments are verified.
#[inline(always)]
pub(crate) const fn verifies(config: &Config) -> bool {
    config.nat_flags & nat_flags::VERIFIES_CHECKSUMS != 0
}
