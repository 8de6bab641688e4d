//! TCP segments under `nat` that open or close a connection, or whose sequence numbers are not near
//! the last ones: they are examined closely before they change anything. They are few.

use crate::{
    abi::{
        Config, MAX_MEMBERS, NAT_CREATE, NAT_RETRY, NAT_TCP, RESET, Service, VERIFY_CHECKSUM,
        nat_flags, service_flags,
    },
    checksum::is_tcp_right,
    class::classify,
    decide::{assign, find},
    frame::Frame,
    nat,
    process::{Outcome, apply, forward, reply},
    quic::{ConnectionHint, Deferred, QuicClassifier},
    tables::{Step, Tables},
    verdict::{DropReason, Verdict},
    wire::{Packet, PacketKind},
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

/// Arguments of [`verify`]: what the segment is verified for. Others are the member that a flow is opened to.
pub(crate) const JUDGE: u16 = 1 << KIND_SHIFT;
/// Its sender is answered with a reset.
pub(crate) const RESET_SENDER: u16 = 2 << KIND_SHIFT;
/// A backend's segment; its client gets a reset.
pub(crate) const RESET_CLIENT: u16 = 3 << KIND_SHIFT;
/// Below these bits is the member.
const KIND_SHIFT: u32 = MAX_MEMBERS.trailing_zeros();
const _: () = assert!(MAX_MEMBERS.is_power_of_two() && KIND_SHIFT + 2 == u16::BITS);

/// Verifies the checksum of a TCP segment that is judged, opens a flow or is answered with a reset: nothing is made of
/// what its receiver throws away. `argument` says which of these it is.
#[inline(always)]
pub fn verify_checksum<F: Frame, T: Tables>(frame: &F, tables: &T, argument: u16) -> Outcome {
    let packet = tables.kept_packet();
    let Some(config) = tables.config() else {
        return Outcome::drop(DropReason::Internal);
    };
    // Of the segments that are judged only those that begin or end a connection are asked for it.
    let asks = packet.is_tcp() && verifies(config) && (argument != JUDGE || packet.is_control());
    // A fragment of a segment has no checksum of its own.
    let is_whole = packet.kind as u8 == PacketKind::Whole as u8;
    let is_right = !asks || (is_whole && is_tcp_right(frame, &packet));
    if argument == JUDGE {
        return Outcome::tail_call(NAT_TCP, u16::from(is_right));
    }
    if !is_right {
        return Outcome::drop(DropReason::BadChecksum);
    }
    if argument < JUDGE {
        return Outcome::tail_call(NAT_CREATE, argument);
    }
    Outcome::tail_call(RESET, argument)
}

/// Does all there is to do with a TCP segment that is looked at closely. `verified` is 1 if its checksum is right, as far
/// as that matters.
#[inline(always)]
pub fn nat_tcp<F: Frame, T: Tables>(frame: &mut F, tables: &T, verified: u16) -> Outcome {
    let packet = tables.kept_packet();
    let judged = WithChecksum {
        frame: &*frame,
        verified: verified != 0,
    };
    tables.trace_flow(&packet.key);
    let Some(config) = tables.config() else {
        return Outcome::PASSED;
    };
    let Some(service) = find(&packet, tables, config) else {
        return Outcome::PASSED;
    };
    let verdict = if service.flags & service_flags::NAT_SOURCE != 0 {
        nat::reply(&packet, tables, &judged, config)
    } else {
        tables.trace_step(Step::Service(service.id));
        let Some(service) = classify(&packet, tables, service) else {
            return Outcome::drop(DropReason::Internal);
        };
        match nat::lookup(&packet, tables, &judged, config, service) {
            nat::Lookup::Decided(verdict) => verdict,
            nat::Lookup::Unknown { .. } if !judged.verified => {
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
        Verdict::Reset => Outcome::tail_call(VERIFY_CHECKSUM, RESET_SENDER),
        _ => Outcome::drop(DropReason::Internal),
    }
}

/// Sends a segment that was judged, and whose flow the nat table does not know any more, to a member. `avoid` is one that
/// did not answer its SYN, or 0.
#[inline(always)]
pub fn nat_retry<F: Frame, T: Tables>(frame: &mut F, tables: &T, avoid: u16) -> Outcome {
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
    let classifier = &Deferred(&*frame);
    let hint = (ConnectionHint::NONE, avoid);
    match assign(
        &packet, tables, classifier, hint, config, service, &mut None,
    ) {
        // Its checksum was verified.
        Verdict::NatCreate(target) if packet.ttl > 1 => Outcome::tail_call(NAT_CREATE, target.id),
        verdict => apply(frame, &packet, tables, verdict, None),
    }
}

/// Returns whether checksums of segments are verified.
#[inline(always)]
const fn verifies(config: &Config) -> bool {
    config.nat_flags & nat_flags::VERIFIES_CHECKSUMS != 0
}
