//! The choice of a member.
//!
//! A flow-table entry exists only for a flow whose member differs from its slot's owner ("just
//! enough tracking", CoNEXT 2020; the slot's previous owner is Beamer's idea, NSDI 2018).

use super::{
    admission::refusal,
    connection::QuicClassifier,
    eligibility::{
        end_of_chain, is_not_hot, is_outside_region, is_reset_with_member, may_serve,
        member_of_open_flow, refuse_open_flow,
    },
    flow_table::{flow_table_member, insert, new_connection_member},
    handshake::{handshake_member, insert_handshake},
    quic_header::ConnectionHint,
};
use crate::{
    abi::{Config, Member, Mode, Service, Slot, service_flags},
    hash,
    tables::{Step, Tables},
    verdict::DropReason,
    wire::Packet,
};

/// A member, or the reason why there is none.
pub(crate) struct Choice<'t> {
    pub(crate) member: Option<&'t Member>,
    /// Number of the member.
    pub(crate) id: u16,
    /// Whether the packet starts a flow.
    pub(crate) is_new: bool,
    /// Reason why there is none. [`DropReason::Reset`] asks for a reset.
    pub(crate) refusal: DropReason,
}

impl<'t> Choice<'t> {
    /// Creates the choice of a member for an open flow.
    #[inline(always)]
    const fn of_open_flow(id: u16, member: &'t Member) -> Self {
        Self {
            member: Some(member),
            id,
            is_new: false,
            refusal: DropReason::Internal,
        }
    }

    #[inline(always)]
    const fn none(reason: DropReason) -> Self {
        Self {
            member: None,
            id: 0,
            is_new: false,
            refusal: reason,
        }
    }
}

/// Returns the member for a packet that is not in the nat table. `avoid` did not answer this flow;
/// `hint` is the hint of a QUIC datagram.
#[inline(always)]
pub(crate) fn choose<'t, T: Tables>(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    hint: ConnectionHint,
    tables: &'t T,
    config: &Config,
    service: &Service,
    avoid: u16,
) -> Choice<'t> {
    let avoid = tables.launder(u64::from(avoid)) as u16;
    if hint.member != 0
        && let Some(member) = member_of_open_flow(tables, service, hint.member)
    {
        // Anyone who has seen an id can name its server, so it must not bypass limits.
        if !hint.opens || !is_limited(service) {
            return Choice::of_open_flow(hint.member, member);
        }
        if handshake_member(packet, tables, config, hint, false) != 0 {
            return Choice::of_open_flow(hint.member, member);
        }
        if let Some(reason) = refusal(packet, tables, service) {
            return Choice::none(reason);
        }
        insert_handshake(packet, tables, service.slots_start, hint.member, hint);
        return Choice {
            is_new: true,
            ..Choice::of_open_flow(hint.member, member)
        };
    }
    if service.slots_len == 0 {
        tables.trace_step(Step::EndOfChain);
        return Choice::none(end_of_chain(packet, service));
    }
    let hash = hash::flow(&packet.key, config.flow_seed);
    let index = service.slots_start + hash::reduce(hash, service.slots_len);
    let Some(slot) = tables.slot(index) else {
        return Choice::none(DropReason::Internal);
    };
    tables.trace_step(Step::Slot(index, slot));
    let opens = packet.opens_tcp() || hint.opens;

    // Whether the flow leaves its member in the flow table permanently; otherwise it would return
    // there when the member recovers.
    let mut left = false;
    if hint.opens && hint.member == 0 {
        let tracked = slot.track != 0;
        let id = handshake_member(packet, tables, config, hint, tracked);
        if id != 0 {
            tables.trace_step(Step::FlowTableHit(id));
            if let Some(member) = member_of_open_flow(tables, service, id) {
                return Choice::of_open_flow(id, member);
            }
        }
        if tracked {
            // The old entry would win over the new flow's.
            tables.remove_flow(&packet.key);
        }
    }
    if slot.track != 0
        && !hint.opens
        && hint.member == 0
        && let Some(id) = flow_table_member(packet, classifier, tables, index, opens)
    {
        left = true;
        tables.trace_step(Step::FlowTableHit(id));
        let open = member_of_open_flow(tables, service, id);
        // A SYN may belong to another flow, whose client reuses the port: a draining member gets
        // none of those.
        if let Some(member) = open {
            if member.takes_new() {
                return Choice::of_open_flow(id, member);
            }
            if !packet.opens_tcp() {
                let started = new_connection_member(packet, classifier, tables, index);
                if started != 0
                    && let Some(member) = member_of_open_flow(tables, service, started)
                {
                    return Choice::of_open_flow(started, member);
                }
                return Choice::of_open_flow(id, member);
            }
        }
        // A SYN may be forged, so it ends no flow that can continue.
        if opens && open.is_none() {
            // The old entry would win over the new flow's.
            tables.remove_flow(&packet.key);
        }
        if is_reset_with_member(packet, service) {
            return Choice::none(refuse_open_flow(packet, service, DropReason::MemberDown));
        }
    }
    let [opens, left] = tables.merged([opens, left]);
    let sticky = packet.is_tcp()
        || classifier.is_quic(service)
        || service.flags & service_flags::AFFINITY != 0;
    // A connection that lost the member in its id is over: whoever gets it will say so, and needs
    // no entry.
    let sticky = sticky && hint.member == 0;
    if sticky && !opens {
        if let Some(member) = member_of_open_flow(tables, service, slot.owner) {
            if left && !insert(packet, classifier, tables, index, slot.owner, opens) {
                return Choice::none(DropReason::FlowTableFull);
            }
            if slot.owner != slot.first && slot.seen == 0 {
                tables.mark_seen(index);
            }
            tables.trace_step(Step::Owner(slot.owner));
            return Choice::of_open_flow(slot.owner, member);
        }
        if is_reset_with_member(packet, service) {
            return Choice::none(refuse_open_flow(packet, service, DropReason::MemberDown));
        }
    }
    let [opens, left] = tables.merged([opens, left]);
    let Some((id, member)) = pick(tables, service, slot, avoid, hash) else {
        if is_outside_region(tables, service, slot.first)
            || is_outside_region(tables, service, slot.second)
        {
            return Choice::none(DropReason::Residency);
        }
        tables.trace_step(Step::EndOfChain);
        return Choice::none(end_of_chain(packet, service));
    };
    // Under nat every unknown flow is new; with QUIC the packet tells.
    let is_nat = member.mode == Mode::Nat as u8 && !classifier.is_quic(service);
    let is_flow = opens | (is_nat & !packet.is_tcp());
    let [opens, left, is_nat, is_flow] = tables.merged([opens, left, is_nat, is_flow]);
    if is_flow && let Some(reason) = refusal(packet, tables, service) {
        return Choice::none(reason);
    }
    tables.trace_step(Step::Picked(id));
    // The nat table holds everything about flows of a nat member.
    let differs = sticky && id != slot.owner && !is_nat;
    let [opens, left, sticky, differs] = tables.merged([opens, left, sticky, differs]);
    if hint.opens && sticky {
        let done = insert_handshake(packet, tables, index, id, hint);
        if differs {
            if !done {
                return Choice::none(DropReason::FlowTableFull);
            }
            tables.mark_track(index);
            tables.trace_step(Step::Insert(id));
        }
    } else if (left || differs) && !insert(packet, classifier, tables, index, id, opens) {
        return Choice::none(DropReason::FlowTableFull);
    }
    Choice {
        is_new: opens,
        ..Choice::of_open_flow(id, member)
    }
}

/// Returns whether a service limits its new flows.
#[inline(always)]
const fn is_limited(service: &Service) -> bool {
    service.flags & service_flags::SHEDS != 0 || service.limit != 0 || service.flow_interval != 0
}

/// Returns the member for a new flow: the first choice unless it is hot, down or to be avoided;
/// then the second; then either that is alive. If both are hot, a bit of the flow's hash decides:
/// preferring the first choice would send it everything.
#[inline(always)]
fn pick<'t, T: Tables>(
    tables: &'t T,
    service: &Service,
    slot: Slot,
    avoid: u16,
    hash: u64,
) -> Option<(u16, &'t Member)> {
    let first = tables.member(slot.first)?;
    let takes_first = first.takes_new() && may_serve(service, first);
    let prefers_first = takes_first && is_not_hot(tables, slot.first, first) && slot.first != avoid;
    let [takes_first, prefers_first] = tables.merged([takes_first, prefers_first]);
    if prefers_first {
        return Some((slot.first, first));
    }
    let second = tables.member(slot.second)?;
    let takes_second = second.takes_new() && may_serve(service, second);
    let prefers_second = takes_second
        && (!takes_first
            || slot.first == avoid
            || is_not_hot(tables, slot.second, second)
            || hash & 1 != 0);
    let [takes_first, prefers_second] = tables.merged([takes_first, prefers_second]);
    if prefers_second {
        return Some((slot.second, second));
    }
    takes_first.then_some((slot.first, first))
}
