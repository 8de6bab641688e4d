//! The choice of a member.
//!
//! A flow is remembered only where its answer differs from what its slot says ("just enough
//! tracking", CoNEXT 2020; the slot's previous owner is Beamer's idea, NSDI 2018).

use crate::{
    abi::{
        Config, FlowEntry, Member, Mode, REGIONS, Service, Slot, age, member_flags, service_flags,
    },
    admission::refusal,
    flight, hash,
    quic::{Look, Said},
    tables::{Step, Tables},
    verdict::DropReason,
    wire::{Packet, Part, RST},
};

/// A member, or the reason why there is none.
pub(crate) struct Choice<'t> {
    pub(crate) member: Option<&'t Member>,
    /// The member's number.
    pub(crate) id: u16,
    /// Whether the packet begins a flow.
    pub(crate) is_new: bool,
    /// Why there is none. [`DropReason::Reset`] asks for a reset.
    pub(crate) refusal: DropReason,
}

impl<'t> Choice<'t> {
    /// A member for an open flow.
    #[inline(always)]
    const fn of(id: u16, member: &'t Member) -> Self {
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

/// The member for a packet that the nat table does not know. `avoid` did not answer this flow; `said`
/// is what a datagram of QUIC says.
#[inline(always)]
pub(crate) fn choose<'t, T: Tables>(
    packet: &Packet,
    look: &impl Look,
    said: Said,
    tables: &'t T,
    config: &Config,
    service: &Service,
    avoid: u16,
) -> Choice<'t> {
    let avoid = tables.launder(u64::from(avoid)) as u16;
    if said.member != 0
        && let Some(member) = for_open(tables, service, said.member)
    {
        // Whoever has seen an id can name its server, so that this is no way past limits.
        if !said.opens || !is_limited(service) {
            return Choice::of(said.member, member);
        }
        if handshake(packet, tables, config, said, false) != 0 {
            return Choice::of(said.member, member);
        }
        if let Some(reason) = refusal(packet, tables, service) {
            return Choice::none(reason);
        }
        remember_handshake(packet, tables, service.slots_start, said.member, said);
        return Choice {
            is_new: true,
            ..Choice::of(said.member, member)
        };
    }
    if service.slots_len == 0 {
        tables.note(Step::EndOfChain);
        return Choice::none(end_of_chain(packet, service));
    }
    let hash = hash::flow(&packet.key, config.flow_seed);
    let index = service.slots_start + hash::reduce(hash, service.slots_len);
    let Some(slot) = tables.slot(index) else {
        return Choice::none(DropReason::Internal);
    };
    tables.note(Step::Slot(index, slot));
    let opens = packet.opens_tcp() || said.opens;

    // Whether the flow table names a member that the flow leaves now, for good: it would go back
    // there with the member's return.
    let mut left = false;
    if said.opens && said.member == 0 {
        let tracked = slot.track != 0;
        let id = handshake(packet, tables, config, said, tracked);
        if id != 0 {
            tables.note(Step::Remembered(id));
            if let Some(member) = for_open(tables, service, id) {
                return Choice::of(id, member);
            }
        }
        if tracked {
            // It would win over what is remembered of the new flow.
            tables.forget(&packet.key);
        }
    }
    if slot.track != 0
        && !said.opens
        && said.member == 0
        && let Some(id) = remembered(packet, tables, index, opens)
    {
        left = true;
        tables.note(Step::Remembered(id));
        // A SYN may be another flow's, whose client uses the port again: a draining member gets none of those.
        let takes_new = |member: &Member| !packet.opens_tcp() || member.takes_new();
        if let Some(member) = for_open(tables, service, id)
            && takes_new(member)
        {
            return Choice::of(id, member);
        }
        if opens {
            // It would win over what is remembered of the new flow.
            tables.forget(&packet.key);
        }
        if is_reset_with_member(packet, service) {
            return Choice::none(lost(packet, service, DropReason::MemberDown));
        }
    }
    let [opens, left] = tables.merged([opens, left]);
    let sticky =
        packet.is_tcp() || look.is_quic(service) || service.flags & service_flags::AFFINITY != 0;
    // What lost the member that its id names is over: whoever gets it says so, and needs no memory.
    let sticky = sticky && said.member == 0;
    if sticky && !opens {
        if let Some(member) = for_open(tables, service, slot.owner) {
            if left && !remember(packet, tables, index, slot.owner, opens) {
                return Choice::none(DropReason::FlowTableFull);
            }
            if slot.owner != slot.first && slot.seen == 0 {
                tables.mark_seen(index);
            }
            tables.note(Step::Owner(slot.owner));
            return Choice::of(slot.owner, member);
        }
        if is_reset_with_member(packet, service) {
            return Choice::none(lost(packet, service, DropReason::MemberDown));
        }
    }
    let [opens, left] = tables.merged([opens, left]);
    let Some((id, member)) = pick(tables, service, slot, avoid, hash) else {
        if is_outside(tables, service, slot.first) || is_outside(tables, service, slot.second) {
            return Choice::none(DropReason::Residency);
        }
        tables.note(Step::EndOfChain);
        return Choice::none(end_of_chain(packet, service));
    };
    // Under nat every flow that is not known is a new one; QUIC says itself which are.
    let is_nat = member.mode == Mode::Nat as u8 && !look.is_quic(service);
    let is_flow = opens | (is_nat & !packet.is_tcp());
    let [opens, left, is_nat, is_flow] = tables.merged([opens, left, is_nat, is_flow]);
    if is_flow && let Some(reason) = refusal(packet, tables, service) {
        return Choice::none(reason);
    }
    tables.note(Step::Picked(id));
    // What a nat member needs to know of a flow is in the nat table.
    let differs = sticky && id != slot.owner && !is_nat;
    let [opens, left, sticky, differs] = tables.merged([opens, left, sticky, differs]);
    if said.opens && sticky {
        let done = remember_handshake(packet, tables, index, id, said);
        if differs {
            if !done {
                return Choice::none(DropReason::FlowTableFull);
            }
            tables.mark_track(index);
            tables.note(Step::Insert(id));
        }
    } else if (left || differs) && !remember(packet, tables, index, id, opens) {
        return Choice::none(DropReason::FlowTableFull);
    }
    Choice {
        is_new: opens,
        ..Choice::of(id, member)
    }
}

/// The member that the flow table has for a flow. A flow that goes on after its SYN moves to where
/// SYNs cannot push it out. Its slot is noted anew: tables change their places.
#[inline(always)]
fn remembered<T: Tables>(packet: &Packet, tables: &T, slot: u32, opens: bool) -> Option<u16> {
    let stamp = tables.stamp();
    let known = tables.with_flow(&packet.key, |entry| {
        if entry.stamp != stamp {
            entry.stamp = stamp;
            entry.last_ms = tables.now_ms();
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
    if !opens {
        let entry = FlowEntry {
            last_ms: tables.now_ms(),
            slot,
            ..entry
        };
        // If it cannot move it stays where it is.
        if tables.remember(&packet.key, &entry) {
            tables.forget_new(&packet.key);
        }
    }
    Some(entry.member)
}

#[inline(always)]
fn remember<T: Tables>(packet: &Packet, tables: &T, slot: u32, member: u16, opens: bool) -> bool {
    let entry = FlowEntry {
        last_ms: tables.now_ms(),
        slot,
        member,
        stamp: 0,
        ids: [0; 4],
    };
    let done = if opens {
        tables.remember_new(&packet.key, &entry)
    } else {
        tables.remember(&packet.key, &entry)
    };
    if !done {
        return false;
    }
    tables.mark_track(slot);
    tables.note(Step::Insert(member));
    true
}

/// Whether a service takes only so many new flows.
#[inline(always)]
const fn is_limited(service: &Service) -> bool {
    service.flags & service_flags::SHEDS != 0 || service.limit != 0 || service.flow_interval != 0
}

/// The member of the handshake that a packet of QUIC which opens connections is a part of; 0 if there is none. The
/// ClientHello may take several packets, and be sent again; the client's next ones have an id that the server chose, in
/// answer to a Retry as well. More ids are another connection's. `tracked` is whether the flow table is to be looked
/// at as well.
#[inline(always)]
fn handshake<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    said: Said,
    tracked: bool,
) -> u16 {
    if let Some(mut entry) = tables.new_flow(&packet.key) {
        let is_over = age(tables.now_ms(), entry.last_ms) > config.nat_timeouts.opening_ms;
        let known = add_id(&mut entry.ids, said.id);
        if is_over || known == Known::No as u8 {
            return 0;
        }
        // If that cannot be written, the next packet tries again.
        if known == Known::Now as u8 {
            tables.remember_new(&packet.key, &entry);
        }
        return entry.member;
    }
    if !tracked {
        return 0;
    }
    let member = tables.with_flow(&packet.key, |entry| {
        if add_id(&mut entry.ids, said.id) == Known::No as u8 {
            0
        } else {
            entry.member
        }
    });
    member.unwrap_or(0)
}

/// Whether a handshake has a connection id.
#[repr(u8)]
enum Known {
    /// It has others, as many as one may have.
    No = 0,
    /// It had it before.
    Before = 1,
    /// It has it from now on.
    Now = 2,
}

/// Adds a hash of a connection id to those of a handshake, if there is room: the id that the client chose, that of a
/// Retry, and the server's. What this returns is a [`Known`].
#[inline(always)]
fn add_id(ids: &mut [u8; 4], id: u8) -> u8 {
    let [first, second, third, _] = *ids;
    if first == id || second == id || third == id {
        return Known::Before as u8;
    }
    if first == 0 {
        ids[0] = id;
    } else if second == 0 {
        ids[1] = id;
    } else if third == 0 {
        ids[2] = id;
    } else {
        return Known::No as u8;
    }
    Known::Now as u8
}

/// Remembers a handshake. False if that failed.
#[inline(always)]
fn remember_handshake<T: Tables>(
    packet: &Packet,
    tables: &T,
    slot: u32,
    member: u16,
    said: Said,
) -> bool {
    let entry = FlowEntry {
        last_ms: tables.now_ms(),
        slot,
        member,
        stamp: 0,
        ids: [said.id, 0, 0, 0],
    };
    tables.remember_new(&packet.key, &entry)
}

/// The member for an open flow, if it can go on there.
#[inline(always)]
fn for_open<'t, T: Tables>(tables: &'t T, service: &Service, id: u16) -> Option<&'t Member> {
    let member = tables.member(id)?;
    if !member.keeps_open() {
        tables.note(Step::Unusable(id));
        return None;
    }
    if !may_serve(service, member) {
        tables.note(Step::Outside(id));
        return None;
    }
    Some(member)
}

/// The member for a new flow: the first choice unless it is hot, down or to be avoided; then the
/// second; then whichever of them is alive. Where both are hot, flows go to either by a bit of their hash:
/// who is the first choice says nothing any more, and all of them would be one's.
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
    let prefers_first = takes_first && prefers(tables, slot.first, first) && slot.first != avoid;
    let [takes_first, prefers_first] = tables.merged([takes_first, prefers_first]);
    if prefers_first {
        return Some((slot.first, first));
    }
    let second = tables.member(slot.second)?;
    let takes_second = second.takes_new() && may_serve(service, second);
    let prefers_second = takes_second
        && (!takes_first
            || slot.first == avoid
            || prefers(tables, slot.second, second)
            || hash & 1 != 0);
    let [takes_first, prefers_second] = tables.merged([takes_first, prefers_second]);
    if prefers_second {
        return Some((slot.second, second));
    }
    takes_first.then_some((slot.first, first))
}

/// Whether a member is in a region that the service may be served from. What the tables say
/// otherwise does not matter.
#[inline(always)]
pub(crate) const fn may_serve(service: &Service, member: &Member) -> bool {
    member.region < REGIONS && service.regions >> (member.region & 0x3f) & 1 != 0
}

/// Whether a member would take new flows, were it not for its region.
#[inline(always)]
fn is_outside<T: Tables>(tables: &T, service: &Service, id: u16) -> bool {
    let outside = tables
        .member(id)
        .is_some_and(|member| member.takes_new() && !may_serve(service, member));
    if outside {
        tables.note(Step::Outside(id));
    }
    outside
}

/// Whether a member is not hot.
#[inline(always)]
fn prefers<T: Tables>(tables: &T, id: u16, member: &Member) -> bool {
    let hot = member.flags & member_flags::HOT != 0 || flight::is_full(tables, id, member);
    if hot {
        tables.note(Step::Hot(id));
    }
    !hot
}

/// Whether a packet of an open flow whose member is down has to end the flow.
#[inline(always)]
pub(crate) const fn is_reset_with_member(packet: &Packet, service: &Service) -> bool {
    packet.is_tcp() && !packet.opens_tcp() && service.flags & service_flags::RESET_OPEN != 0
}

/// The end of a flow that cannot go on. [`DropReason::Reset`] asks for a reset.
#[inline(always)]
pub(crate) const fn lost(packet: &Packet, service: &Service, reason: DropReason) -> DropReason {
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

/// A reset, if wanted and where one may be sent: never in answer to a reset (RFC 9293 section
/// 3.10.7.1), and not to a fragment, whose checksum nobody can check.
#[inline(always)]
const fn refuse(packet: &Packet, reset: bool, reason: DropReason) -> DropReason {
    let is_whole = packet.part as u8 == Part::Packet as u8;
    if reset && packet.is_tcp() && packet.tcp_flags & RST == 0 && is_whole {
        return DropReason::Reset;
    }
    reason
}
