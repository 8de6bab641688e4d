//! TCP segments under `nat` that begin or end a connection, or whose sequence numbers are not near the last ones: they
//! are looked at closely before they change anything. They are few.

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

/// With the checksum of the segment looked at.
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

    // Under `nat` it is TCP, which is never for one.
    #[inline(always)]
    fn is_quic(&self, _service: &Service) -> bool {
        false
    }

    #[inline(always)]
    fn is_verified(&self) -> bool {
        self.verified
    }
}

/// Does all there is to do with a TCP segment that is looked at closely.
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
            // It begins anew, as a flow that nobody knows.
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

/// Lets a packet open a flow if its checksum is right: nothing is made of what its receiver throws away. `argument` is
/// handed on.
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
    // A part of a segment has no checksum of its own.
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

/// Returns whether the checksum of a segment is right. Only those that begin or end a connection
/// are asked for it, and where the configuration says so.
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
