//! TCP segments under `nat` that open or close a connection, or whose sequence numbers are not near
//! the last ones: they are examined closely before they change anything. They are few.

use crate::{
    abi::{
        Config, MEMBERS, OPEN, RESET, RETRY, SEGMENT, Service, VERIFY, nat_flags, service_flags,
    },
    checksum::is_tcp_right,
    class::classify,
    decide::{assign, find},
    frame::Frame,
    nat,
    process::{Outcome, act, forward, give_back},
    quic::{Elsewhere, Look, Said},
    tables::{Step, Tables},
    verdict::{DropReason, Verdict},
    wire::{Packet, Part},
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

/// Arguments of [`verify`]: what the segment is verified for. Others are the member that a flow is opened to.
pub(crate) const JUDGE: u16 = 1 << KIND_SHIFT;
/// Its sender is answered with a reset.
pub(crate) const RESET_SENDER: u16 = 2 << KIND_SHIFT;
/// A backend's segment; its client gets a reset.
pub(crate) const RESET_CLIENT: u16 = 3 << KIND_SHIFT;
/// Below these bits is the member.
const KIND_SHIFT: u32 = MEMBERS.trailing_zeros();
const _: () = assert!(MEMBERS.is_power_of_two() && KIND_SHIFT + 2 == u16::BITS);

/// Verifies the checksum of a TCP segment that is judged, opens a flow or is answered with a reset: nothing is made of
/// what its receiver throws away. `argument` says which of these it is.
#[inline(always)]
pub fn verify<F: Frame, T: Tables>(frame: &F, tables: &T, argument: u16) -> Outcome {
    let packet = tables.kept_packet();
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    // Of the segments that are judged only those that begin or end a connection are asked for it.
    let asks = packet.is_tcp() && verifies(config) && (argument != JUDGE || packet.is_control());
    // A fragment of a segment has no checksum of its own.
    let is_whole = packet.part as u8 == Part::Packet as u8;
    let is_right = !asks || (is_whole && is_tcp_right(frame, &packet));
    if argument == JUDGE {
        return Outcome::hand_over(SEGMENT, u16::from(is_right));
    }
    if !is_right {
        return Outcome::drop(DropReason::BadChecksum);
    }
    if argument < JUDGE {
        return Outcome::hand_over(OPEN, argument);
    }
    Outcome::hand_over(RESET, argument)
}

/// Does all there is to do with a TCP segment that is looked at closely. `verified` is 1 if its checksum is right, as far
/// as that matters.
#[inline(always)]
pub fn segment<F: Frame, T: Tables>(frame: &mut F, tables: &T, verified: u16) -> Outcome {
    let packet = tables.kept_packet();
    let judged = Judged {
        frame: &*frame,
        verified: verified != 0,
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
            nat::Known::Unknown { .. } if !judged.verified => {
                return Outcome::drop(DropReason::BadChecksum);
            }
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
        Verdict::Reset => Outcome::hand_over(VERIFY, RESET_SENDER),
        _ => Outcome::drop(DropReason::Internal),
    }
}

/// Sends a segment that was judged, and whose flow the nat table does not know any more, to a member. `avoid` is one that
/// did not answer its SYN, or 0.
#[inline(always)]
pub fn retry<F: Frame, T: Tables>(frame: &mut F, tables: &T, avoid: u16) -> Outcome {
    let packet = tables.kept_packet();
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
    match assign(&packet, tables, look, said, config, service, &mut None) {
        // Its checksum was verified.
        Verdict::Open(target) if packet.ttl > 1 => Outcome::hand_over(OPEN, target.id),
        verdict => act(frame, &packet, tables, verdict, None),
    }
}

/// Returns whether checksums of segments are verified.
#[inline(always)]
const fn verifies(config: &Config) -> bool {
    config.nat_flags & nat_flags::VERIFIES_CHECKSUMS != 0
}
