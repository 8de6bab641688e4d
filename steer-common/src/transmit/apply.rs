//! Application of verdicts to packets.

use super::{
    outcome::Outcome,
    send::{deliver, forward, reply},
};
use crate::{
    abi::{
        FragmentFate, Member, NAT_CREATE, NAT_QUIC, NAT_REVALIDATE, QUIC, QUIC_DECRYPT,
        VERIFY_CHECKSUM, checksum_purpose,
    },
    frame::Frame,
    tables::Tables,
    verdict::{DropReason, Verdict},
    wire::Packet,
};

/// Applies a verdict to a packet. `member` is the one that it is delivered to, if it was looked up
/// already.
#[inline(always)]
pub(crate) fn apply<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    verdict: Verdict,
    member: Option<&Member>,
) -> Outcome {
    apply_recorded(frame, packet, tables, verdict, member, |_, _| true)
}

/// Works like [`apply`] in a program that has not stored its packet yet: the next one gets it.
#[inline(always)]
pub(crate) fn apply_and_store<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    verdict: Verdict,
    member: Option<&Member>,
) -> Outcome {
    let outcome = apply(frame, packet, tables, verdict, member);
    if outcome.is_tail_call() {
        tables.store_packet(packet);
    }
    outcome
}

/// Works like [`apply`], after `record` has recorded the destination of the packet. If that fails, the
/// packet is dropped.
#[inline(always)]
pub(crate) fn apply_recorded<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    verdict: Verdict,
    member: Option<&Member>,
    record: impl Fn(FragmentFate, u16) -> bool,
) -> Outcome {
    const UNRECORDED: Outcome = Outcome::drop(DropReason::FlowTableFull);
    match verdict {
        Verdict::Pass => Outcome::PASSED,
        Verdict::Drop(reason) => Outcome::drop(reason),
        Verdict::Encap(target) => {
            if !record(FragmentFate::Delivered, target.id) {
                return UNRECORDED;
            }
            let Some(member) = member.or_else(|| tables.member(target.id)) else {
                return Outcome::drop(DropReason::Internal);
            };
            deliver(frame, packet, tables, target, member)
        }
        // It would take a port, and end here with it.
        Verdict::NatCreate(_) if packet.ttl <= 1 => Outcome::TTL_EXPIRED,
        Verdict::NatCreate(target) if packet.is_tcp() => {
            Outcome::tail_call(VERIFY_CHECKSUM, target.id)
        }
        Verdict::NatCreate(target) => Outcome::tail_call(NAT_CREATE, target.id),
        Verdict::Quic => Outcome::tail_call(QUIC, 0),
        Verdict::QuicDecrypt => Outcome::tail_call(QUIC_DECRYPT, 0),
        Verdict::NatTcp => Outcome::tail_call(VERIFY_CHECKSUM, checksum_purpose::VALIDATE),
        Verdict::NatQuic(target) => Outcome::tail_call(NAT_QUIC, target.id),
        Verdict::NatForward(target, ends) => {
            if !record(FragmentFate::Forwarded, target.id) {
                return UNRECORDED;
            }
            forward(frame, packet, tables, target, &ends)
        }
        Verdict::NatReply(member, ends, back) => {
            if !record(FragmentFate::Returned, member) {
                return UNRECORDED;
            }
            reply(frame, packet, tables, member, &ends, &back)
        }
        Verdict::Reset => Outcome::tail_call(VERIFY_CHECKSUM, checksum_purpose::RESET_SENDER),
        Verdict::NatRevalidate => Outcome::tail_call(NAT_REVALIDATE, 0),
    }
}
