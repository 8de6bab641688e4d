//! Eligibility of members: whether a member may take a packet, and what happens to a flow that has none.

use super::in_flight;
use crate::{
    abi::{MAX_REGIONS, Member, Service, member_flags, service_flags},
    tables::{Step, Tables},
    verdict::DropReason,
    wire::{Packet, PacketKind, RST},
};

/// Returns whether a member is in a region that may serve the service, whatever the tables contain.
#[inline(always)]
pub(crate) const fn may_serve(service: &Service, member: &Member) -> bool {
    member.region < MAX_REGIONS && service.regions >> (member.region & 0x3f) & 1 != 0
}

/// Returns the member for an open flow, if it can continue there.
#[inline(always)]
pub(super) fn member_of_open_flow<'t, T: Tables>(
    tables: &'t T,
    service: &Service,
    id: u16,
) -> Option<&'t Member> {
    let member = tables.member(id)?;
    if !member.keeps_open() {
        tables.trace_step(Step::Unavailable(id));
        return None;
    }
    if !may_serve(service, member) {
        tables.trace_step(Step::OutsideRegion(id));
        return None;
    }
    Some(member)
}

/// Returns whether a member would take new flows if not for its region.
#[inline(always)]
pub(super) fn is_outside_region<T: Tables>(tables: &T, service: &Service, id: u16) -> bool {
    let outside = tables
        .member(id)
        .is_some_and(|member| member.takes_new() && !may_serve(service, member));
    if outside {
        tables.trace_step(Step::OutsideRegion(id));
    }
    outside
}

/// Returns whether a member is not hot.
#[inline(always)]
pub(super) fn is_not_hot<T: Tables>(tables: &T, id: u16, member: &Member) -> bool {
    let hot = member.flags & member_flags::HOT != 0 || in_flight::is_at_limit(tables, id, member);
    if hot {
        tables.trace_step(Step::Hot(id));
    }
    !hot
}

/// Returns whether a packet of an open flow whose member is down must end the flow.
#[inline(always)]
pub(crate) const fn is_reset_with_member(packet: &Packet, service: &Service) -> bool {
    packet.is_tcp() && !packet.opens_tcp() && service.flags & service_flags::RESET_OPEN != 0
}

/// Returns the outcome for a flow that cannot continue. [`DropReason::Reset`] asks for a reset.
#[inline(always)]
pub(crate) const fn refuse_open_flow(
    packet: &Packet,
    service: &Service,
    reason: DropReason,
) -> DropReason {
    refuse(
        packet,
        service.flags & service_flags::RESET_OPEN != 0,
        reason,
    )
}

/// Returns the reason for a new flow that no member takes. [`DropReason::Reset`] asks for a reset.
#[inline(always)]
pub(super) const fn end_of_chain(packet: &Packet, service: &Service) -> DropReason {
    let reject = service.flags & service_flags::REJECT != 0;
    refuse(packet, reject, DropReason::NoBackend)
}

/// Returns a reset, if wanted and allowed: never in answer to a reset (RFC 9293 section 3.10.7.1),
/// and not to a fragment, whose checksum cannot be verified.
#[inline(always)]
const fn refuse(packet: &Packet, reset: bool, reason: DropReason) -> DropReason {
    let is_whole = packet.kind as u8 == PacketKind::Whole as u8;
    if reset && packet.is_tcp() && packet.tcp_flags & RST == 0 && is_whole {
        return DropReason::Reset;
    }
    reason
}
