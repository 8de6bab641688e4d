//! The decision: which member a packet goes to.
//!
//! A flow is remembered only where its answer differs from what its slot says ("just enough
//! tracking", CoNEXT 2020; the slot's previous owner is Beamer's idea, NSDI 2018).

use crate::{
    abi::{
        Address, Bank, Config, DISPLACEMENTS, FlowEntry, Member, Mode, REGIONS, SERVICES, Service,
        ServiceKey, Slot, begins, member_flags, service_flags,
    },
    admission::refusal,
    class::classify,
    flight,
    hash::{self, ServiceHash},
    nat,
    quic::{Look, Said},
    tables::{Step, Tables},
    verdict::{DropReason, Target, Verdict},
    wire::{Packet, Part, RST},
};

/// Decides what to do with a packet, and notes in the tables what must be remembered of it. `look` says
/// what a packet for a service of QUIC says of its connection.
#[inline(always)]
pub fn decide<T: Tables>(packet: &Packet, tables: &T, look: &impl Look) -> Verdict {
    tables.see(&packet.key);
    let Some(config) = tables.config() else {
        return Verdict::Pass;
    };
    let Some(service) = find(packet, tables, config) else {
        return Verdict::Pass;
    };
    if service.flags & service_flags::NAT_SOURCE != 0 {
        return nat::reply(packet, tables, config);
    }
    tables.note(Step::Service(service.id));
    if look.is_elsewhere() && service.flags & service_flags::QUIC != 0 {
        return Verdict::Quic;
    }
    if !packet.well_formed {
        return Verdict::Drop(DropReason::Malformed);
    }
    if config.denies != 0 && tables.is_denied(&packet.key.source) {
        tables.count_refusal(service.id, DropReason::Denied);
        return Verdict::Drop(DropReason::Denied);
    }
    // Server ids are those of the service: a client that moves into another class keeps its member.
    let said = look.look(config, service);
    let Some(service) = classify(packet, tables, service) else {
        return Verdict::Drop(DropReason::Internal);
    };
    let mut avoid = 0;
    if service.flags & service_flags::HAS_NAT != 0 && !look.is_quic(service) {
        match nat::known(packet, tables, config, service) {
            nat::Known::Decided(verdict) => return verdict,
            nat::Known::Unknown { avoid: member } => avoid = member,
        }
    }
    let target = match choose(packet, look, said, tables, config, service, avoid) {
        Choice {
            target,
            refusal: None,
        } => target,
        Choice {
            refusal: Some(DropReason::Reset),
            ..
        } => {
            if service.flags & service_flags::REJECT != 0 && packet.opens_tcp() {
                tables.count_refusal(service.id, DropReason::NoBackend);
            }
            return Verdict::Reset;
        }
        Choice {
            refusal: Some(reason),
            ..
        } => {
            tables.count_refusal(service.id, reason);
            return Verdict::Drop(reason);
        }
    };
    if target.mode != Mode::Nat as u8 {
        return Verdict::Deliver(Target {
            begins: target.begins | (packet.only_acknowledges() as u8 * begins::ANSWER),
            ..target
        });
    }
    if look.is_quic(service) {
        return Verdict::Translate(target);
    }
    if packet.part as u8 == Part::Quote as u8 {
        return Verdict::Pass;
    }
    if packet.is_tcp() && target.begins & begins::FLOW == 0 {
        return match lost(packet, service, DropReason::NatUnknownFlow) {
            DropReason::Reset => Verdict::Reset,
            reason => Verdict::Drop(reason),
        };
    }
    // Nothing would look for the flow that is opened now.
    if service.flags & service_flags::HAS_NAT == 0 {
        return Verdict::Drop(DropReason::Internal);
    }
    // It would take a port, and be dropped with it.
    if packet.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    Verdict::Open(target)
}

/// The service that a packet is for.
#[inline(always)]
pub(crate) fn find<'t, T: Tables>(
    packet: &Packet,
    tables: &'t T,
    config: &Config,
) -> Option<&'t Service> {
    let active = config.active & 1;
    let bank = &config.banks[active as usize];
    let mut key = ServiceKey {
        address: packet.key.destination,
        port: packet.key.destination_port,
        protocol: packet.key.protocol,
        family: packet.key.family,
        class: 0,
    };
    if let Some(service) = look_up(&key, tables, active, bank) {
        return Some(service);
    }
    if bank.any_port == 0 {
        return None;
    }
    key.port = 0;
    look_up(&key, tables, active, bank)
}

#[inline(always)]
fn look_up<'t, T: Tables>(
    key: &ServiceKey,
    tables: &'t T,
    active: u32,
    bank: &Bank,
) -> Option<&'t Service> {
    let hash = ServiceHash::of(key, bank.seed);
    let bucket = hash.bucket(bank.displacement_mask);
    let displacement = tables.displacement(active * DISPLACEMENTS + bucket)?;
    let entry = hash.entry(displacement, bank.service_mask);
    let service = tables.service(active * SERVICES + entry)?;
    service.key.is(key).then_some(service)
}

/// Whether an address is one that services or `nat` use.
#[inline(always)]
pub(crate) fn is_address<T: Tables>(tables: &T, address: Address, family: u8) -> bool {
    let Some(config) = tables.config() else {
        return false;
    };
    let active = config.active & 1;
    let key = ServiceKey {
        address,
        port: 0,
        protocol: 0,
        family,
        class: 0,
    };
    look_up(&key, tables, active, &config.banks[active as usize]).is_some()
}

/// A member, or the reason why there is none. All of it is always defined, for the verifier's sake.
struct Choice {
    target: Target,
    refusal: Option<DropReason>,
}

impl Choice {
    #[inline(always)]
    const fn of(target: Target) -> Self {
        Self {
            target,
            refusal: None,
        }
    }

    #[inline(always)]
    const fn none(reason: DropReason) -> Self {
        Self {
            target: Target {
                id: 0,
                mode: 0,
                begins: 0,
            },
            refusal: Some(reason),
        }
    }
}

/// The member for a packet that the nat table does not know. `avoid` did not answer this flow; `said`
/// is what a datagram of QUIC says.
#[inline(always)]
fn choose<T: Tables>(
    packet: &Packet,
    look: &impl Look,
    said: Said,
    tables: &T,
    config: &Config,
    service: &Service,
    avoid: u16,
) -> Choice {
    if said.member != 0
        && let Some(target) = open_target(tables, service, said.member)
    {
        return Choice::of(target);
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
    if slot.track != 0
        && said.member == 0
        && let Some(id) = remembered(packet, tables, index, opens)
    {
        left = true;
        tables.note(Step::Remembered(id));
        if let Some(target) = open_target(tables, service, id) {
            return Choice::of(target);
        }
        if is_reset_with_member(packet, service) {
            return Choice::none(lost(packet, service, DropReason::MemberDown));
        }
    }
    let sticky =
        packet.is_tcp() || look.is_quic(service) || service.flags & service_flags::AFFINITY != 0;
    // What lost the member that its id names is over: whoever gets it says so, and needs no memory.
    let sticky = sticky && said.member == 0;
    if sticky && !opens {
        if let Some(target) = open_target(tables, service, slot.owner) {
            if left && !remember(packet, tables, index, slot.owner, opens) {
                return Choice::none(DropReason::FlowTableFull);
            }
            if slot.owner != slot.first && slot.seen == 0 {
                tables.mark_seen(index);
            }
            tables.note(Step::Owner(slot.owner));
            return Choice::of(target);
        }
        if is_reset_with_member(packet, service) {
            return Choice::none(lost(packet, service, DropReason::MemberDown));
        }
    }
    let Some(mut target) = pick(tables, service, slot, avoid, hash) else {
        if is_outside(tables, service, slot.first) || is_outside(tables, service, slot.second) {
            return Choice::none(DropReason::Residency);
        }
        tables.note(Step::EndOfChain);
        return Choice::none(end_of_chain(packet, service));
    };
    // Under nat every flow that is not known is a new one; QUIC says itself which are.
    let is_nat = target.mode == Mode::Nat as u8 && !look.is_quic(service);
    let is_flow = opens || (is_nat && !packet.is_tcp());
    if is_flow && let Some(reason) = refusal(packet, tables, service) {
        return Choice::none(reason);
    }
    target.begins = if opens { begins::FLOW } else { 0 };
    tables.note(Step::Picked(target.id));
    // What a nat member needs to know of a flow is in the nat table.
    let differs = sticky && target.id != slot.owner && !is_nat;
    if (left || differs) && !remember(packet, tables, index, target.id, opens) {
        return Choice::none(DropReason::FlowTableFull);
    }
    Choice::of(target)
}

/// The member that the flow table has for a flow. A flow that goes on after its SYN moves to where
/// SYNs cannot push it out. Its slot is noted anew: tables change their places.
#[inline(always)]
fn remembered<T: Tables>(packet: &Packet, tables: &T, slot: u32, opens: bool) -> Option<u16> {
    let now = tables.now_ms();
    let known = tables.with_flow(&packet.key, |entry| {
        entry.last_ms = now;
        entry.slot = slot;
        entry.member
    });
    if known.is_some() {
        return known;
    }
    let entry = tables.new_flow(&packet.key)?;
    if !opens {
        let entry = FlowEntry {
            last_ms: now,
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
        _pad: [0; 3],
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

/// The member for an open flow, if it can go on there.
#[inline(always)]
fn open_target<T: Tables>(tables: &T, service: &Service, id: u16) -> Option<Target> {
    let member = tables.member(id)?;
    if !member.keeps_open() {
        tables.note(Step::Unusable(id));
        return None;
    }
    if !may_serve(service, member) {
        tables.note(Step::Outside(id));
        return None;
    }
    Some(Target {
        id,
        mode: member.mode,
        begins: 0,
    })
}

/// The member for a new flow: the first choice unless it is hot, down or to be avoided; then the
/// second; then whichever of them is alive. Where both are hot, flows go to either by a bit of their hash:
/// who is the first choice says nothing any more, and all of them would be one's.
#[inline(always)]
fn pick<T: Tables>(
    tables: &T,
    service: &Service,
    slot: Slot,
    avoid: u16,
    hash: u64,
) -> Option<Target> {
    let first = tables.member(slot.first)?;
    let takes_first = first.takes_new() && may_serve(service, first);
    if takes_first && prefers(tables, slot.first, first) && slot.first != avoid {
        return Some(target(slot.first, first));
    }
    let second = tables.member(slot.second)?;
    let takes_second = second.takes_new() && may_serve(service, second);
    let prefers_second = takes_second
        && (!takes_first
            || slot.first == avoid
            || prefers(tables, slot.second, second)
            || hash & 1 != 0);
    if prefers_second {
        return Some(target(slot.second, second));
    }
    takes_first.then(|| target(slot.first, first))
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

#[inline(always)]
const fn target(id: u16, member: &Member) -> Target {
    Target {
        id,
        mode: member.mode,
        begins: begins::FLOW,
    }
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
/// 3.10.7.1).
#[inline(always)]
const fn refuse(packet: &Packet, reset: bool, reason: DropReason) -> DropReason {
    let is_quote = packet.part as u8 == Part::Quote as u8;
    if reset && packet.is_tcp() && packet.tcp_flags & RST == 0 && !is_quote {
        return DropReason::Reset;
    }
    reason
}
