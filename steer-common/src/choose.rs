//! The choice of a member.
//!
//! A flow-table entry exists only for a flow whose member differs from its slot's owner ("just
//! enough tracking", CoNEXT 2020; the slot's previous owner is Beamer's idea, NSDI 2018).

use crate::{
    abi::{
        Config, FlowEntry, MAX_REGIONS, Member, Mode, Service, Slot, age, member_flags,
        service_flags,
    },
    admission::refusal,
    flight, hash,
    quic::{ConnectionHint, QuicClassifier},
    tables::{Step, Tables},
    verdict::DropReason,
    wire::{Packet, PacketKind, RST},
};

/// The longest way of a connection's first segments from its SYN: a window that is not scaled yet.
const FIRST_WINDOW: u32 = 1 << 16;

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
                let begun = begun(packet, classifier, tables, index);
                if begun != 0
                    && let Some(member) = member_of_open_flow(tables, service, begun)
                {
                    return Choice::of_open_flow(begun, member);
                }
                return Choice::of_open_flow(id, member);
            }
        }
        // The SYN of nobody knows whom ends no flow that can go on.
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

/// Returns the member of a flow in the flow table. A flow that continues after its SYN moves to
/// where SYNs cannot evict it. Its slot is updated, because tables move.
#[inline(always)]
fn flow_table_member<T: Tables>(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    tables: &T,
    slot: u32,
    opens: bool,
) -> Option<u16> {
    let stamp = tables.coarse_tick();
    let known = tables.with_flow(&packet.key, |entry| {
        if entry.coarse_tick != stamp {
            entry.coarse_tick = stamp;
            entry.last_ticks = tables.now_ticks();
        }
        if entry.slot != slot {
            entry.slot = slot;
        }
        entry.member
    });
    if known.is_some() {
        return known;
    }
    let entry = tables.new_flow(&packet.key)?;
    if !packet.is_tcp() {
        if !opens {
            settle(packet, tables, slot, entry);
        }
        return Some(entry.member);
    }
    let number = sequence(packet, classifier);
    if opens {
        // The last SYN counts: the port may be used again.
        if number != 0 && number != entry.initial() {
            tables.insert_new_flow(&packet.key, &entry.with_initial(number));
        }
        return Some(entry.member);
    }
    // Fragments and ICMP errors show no number, and prove nothing.
    if number == 0 {
        return Some(entry.member);
    }
    if !follows(number, &entry) {
        return None;
    }
    settle(packet, tables, slot, entry);
    Some(entry.member)
}

/// The member of the connection that a SYN has begun, if a segment is the next one of it; 0 otherwise. A flow of the same
/// ends with a draining member may still be open.
#[inline(always)]
fn begun<T: Tables>(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    tables: &T,
    slot: u32,
) -> u16 {
    let number = sequence(packet, classifier);
    let Some(entry) = tables.new_flow(&packet.key) else {
        return 0;
    };
    if number == 0 || !packet.is_tcp() || !follows(number, &entry) {
        return 0;
    }
    settle(packet, tables, slot, entry);
    entry.member
}

/// Moves a flow to where SYNs cannot push it out.
#[inline(always)]
fn settle<T: Tables>(packet: &Packet, tables: &T, slot: u32, entry: FlowEntry) {
    let entry = FlowEntry {
        last_ticks: tables.now_ticks(),
        slot,
        ..entry
    };
    // If it cannot move it stays where it is.
    if tables.insert_flow(&packet.key, &entry) {
        tables.remove_new_flow(&packet.key);
    }
}

/// Sequence number of a TCP segment, which is never 0; 0 if it cannot be seen.
#[inline(always)]
fn sequence(packet: &Packet, classifier: &impl QuicClassifier) -> u32 {
    match classifier.tcp_numbers(packet) {
        Some([number, _]) if number != 0 => number,
        Some(_) => 1,
        None => 0,
    }
}

/// Returns whether a segment can be the first one behind the SYN that an entry is of. All others are of a connection that was
/// there before: a SYN in the name of a client, which anybody can send, does not move it. Entries of another version
/// say no number.
#[inline(always)]
const fn follows(number: u32, entry: &FlowEntry) -> bool {
    let initial = entry.initial();
    initial == 0 || number.wrapping_sub(initial) <= FIRST_WINDOW
}

#[inline(always)]
fn insert<T: Tables>(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    tables: &T,
    slot: u32,
    member: u16,
    opens: bool,
) -> bool {
    let entry = FlowEntry {
        last_ticks: tables.now_ticks(),
        slot,
        member,
        coarse_tick: 0,
        ids: [0; 4],
    };
    let entry = if opens && packet.is_tcp() {
        entry.with_initial(sequence(packet, classifier))
    } else {
        entry
    };
    let done = if opens {
        tables.insert_new_flow(&packet.key, &entry)
    } else {
        tables.insert_flow(&packet.key, &entry)
    };
    if !done {
        return false;
    }
    tables.mark_track(slot);
    tables.trace_step(Step::Insert(member));
    true
}

/// Returns whether a service limits its new flows.
#[inline(always)]
const fn is_limited(service: &Service) -> bool {
    service.flags & service_flags::SHEDS != 0 || service.limit != 0 || service.flow_interval != 0
}

/// Returns the member of the handshake to which an opening QUIC packet belongs; 0 if there is none.
/// The ClientHello may take several packets, and be repeated; the client's next ones have an id
/// chosen by the server, also in answer to a Retry. More ids are another connection's. `tracked`
/// tells whether to look in the flow table as well.
#[inline(always)]
fn handshake_member<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    hint: ConnectionHint,
    tracked: bool,
) -> u16 {
    if let Some(mut entry) = tables.new_flow(&packet.key) {
        let is_over =
            age(tables.now_ticks(), entry.last_ticks) > config.nat_timeouts.unassured_ticks;
        let known = add_id(&mut entry.ids, hint.id);
        if is_over || known == IdAdded::No as u8 {
            return 0;
        }
        // If the write fails, the next packet tries again.
        if known == IdAdded::Now as u8 {
            tables.insert_new_flow(&packet.key, &entry);
        }
        return entry.member;
    }
    if !tracked {
        return 0;
    }
    let member = tables.with_flow(&packet.key, |entry| {
        if add_id(&mut entry.ids, hint.id) == IdAdded::No as u8 {
            0
        } else {
            entry.member
        }
    });
    member.unwrap_or(0)
}

/// Presence of a connection id in a handshake.
#[repr(u8)]
enum IdAdded {
    /// The handshake has other ids, as many as it may have.
    No = 0,
    /// The id was known before.
    Before = 1,
    /// The id was added now.
    Now = 2,
}

/// Adds a hash of a connection id to those of a handshake, if there is room: the id chosen by the
/// client, that of a Retry, and the server's. Returns a [`Known`].
#[inline(always)]
fn add_id(ids: &mut [u8; 4], id: u8) -> u8 {
    let [first, second, third, _] = *ids;
    if first == id || second == id || third == id {
        return IdAdded::Before as u8;
    }
    if first == 0 {
        ids[0] = id;
    } else if second == 0 {
        ids[1] = id;
    } else if third == 0 {
        ids[2] = id;
    } else {
        return IdAdded::No as u8;
    }
    IdAdded::Now as u8
}

/// Inserts a handshake into the flow table. Returns false on failure.
#[inline(always)]
fn insert_handshake<T: Tables>(
    packet: &Packet,
    tables: &T,
    slot: u32,
    member: u16,
    hint: ConnectionHint,
) -> bool {
    let entry = FlowEntry {
        last_ticks: tables.now_ticks(),
        slot,
        member,
        coarse_tick: 0,
        ids: [hint.id, 0, 0, 0],
    };
    tables.insert_new_flow(&packet.key, &entry)
}

/// Returns the member for an open flow, if it can continue there.
#[inline(always)]
fn member_of_open_flow<'t, T: Tables>(
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

/// Returns whether a member is in a region that may serve the service, whatever the tables contain.
#[inline(always)]
pub(crate) const fn may_serve(service: &Service, member: &Member) -> bool {
    member.region < MAX_REGIONS && service.regions >> (member.region & 0x3f) & 1 != 0
}

/// Returns whether a member would take new flows if not for its region.
#[inline(always)]
fn is_outside_region<T: Tables>(tables: &T, service: &Service, id: u16) -> bool {
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
fn is_not_hot<T: Tables>(tables: &T, id: u16, member: &Member) -> bool {
    let hot = member.flags & member_flags::HOT != 0 || flight::is_full(tables, id, member);
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

#[inline(always)]
const fn end_of_chain(packet: &Packet, service: &Service) -> DropReason {
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
