//! The decision: the action for a packet, and its member.

use crate::{
    abi::{
        Address, Bank, Config, DISPLACEMENTS, Member, Mode, SERVICES, Service, ServiceKey, begins,
        service_flags,
    },
    choose::{choose, lost},
    class::classify,
    hash::ServiceHash,
    nat,
    quic::{Look, Said},
    tables::{Step, Tables},
    verdict::{DropReason, Target, Verdict},
    wire::{Packet, Part},
};

/// Decides about a packet, and writes to the tables what later packets need. `look` gives the
/// connection hint of a packet for a QUIC service.
#[inline(always)]
pub fn decide<T: Tables, L: Look>(packet: &Packet, tables: &T, look: &L) -> Verdict {
    decide_for(packet, tables, look, &mut None)
}

/// Decides like [`decide`], and stores the member of [`Verdict::Deliver`] in `chosen` to save a
/// second look-up.
#[inline(always)]
pub(crate) fn decide_for<'t, T: Tables, L: Look>(
    packet: &Packet,
    tables: &'t T,
    look: &L,
    chosen: &mut Option<&'t Member>,
) -> Verdict {
    tables.see(&packet.key);
    let Some(config) = tables.config() else {
        return Verdict::Pass;
    };
    let Some(service) = find(packet, tables, config) else {
        return Verdict::Pass;
    };
    if service.flags & (service_flags::NAT_SOURCE | service_flags::QUIC) != 0 {
        if service.flags & service_flags::NAT_SOURCE != 0 {
            return nat::reply(packet, tables, look, config);
        }
        if let Some(verdict) = look.quic(packet, tables, config, service, chosen) {
            return verdict;
        }
    }
    steered(packet, tables, look, config, service, chosen)
}

/// Decides about a packet for a service.
#[inline(always)]
pub(crate) fn steered<'t, T: Tables, L: Look>(
    packet: &Packet,
    tables: &'t T,
    look: &L,
    config: &Config,
    service: &'t Service,
    chosen: &mut Option<&'t Member>,
) -> Verdict {
    tables.note(Step::Service(service.id));
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
        match nat::known(packet, tables, look, config, service) {
            nat::Known::Decided(verdict) => return verdict,
            nat::Known::Unknown { avoid: member } => avoid = member,
        }
    }
    assign(packet, tables, look, (said, avoid), config, service, chosen)
}

/// Decides which member of a service or class gets a packet that is not in the nat table. `avoid`
/// did not answer its flow.
#[inline(always)]
pub(crate) fn assign<'t, T: Tables, L: Look>(
    packet: &Packet,
    tables: &'t T,
    look: &L,
    (said, avoid): (Said, u16),
    config: &Config,
    service: &Service,
    chosen: &mut Option<&'t Member>,
) -> Verdict {
    let choice = choose(packet, look, said, tables, config, service, avoid);
    let Some(member) = choice.member else {
        if choice.refusal as u8 != DropReason::Reset as u8 {
            tables.count_refusal(service.id, choice.refusal);
            return Verdict::Drop(choice.refusal);
        }
        if service.flags & service_flags::REJECT != 0 && packet.opens_tcp() {
            tables.count_refusal(service.id, DropReason::NoBackend);
        }
        return Verdict::Reset;
    };
    let target = Target {
        id: choice.id,
        mode: member.mode,
        begins: choice.is_new as u8 * begins::FLOW,
    };
    if target.mode != Mode::Nat as u8 {
        let shows = packet.only_acknowledges() as u8 * begins::ANSWER;
        let target = Target {
            begins: target.begins | shows,
            ..target
        };
        *chosen = Some(member);
        return Verdict::Deliver(target);
    }
    translated(packet, look, service, target)
}

/// Returns the verdict for a packet that is not in the nat table and whose member has mode `nat`.
#[inline(always)]
fn translated(packet: &Packet, look: &impl Look, service: &Service, target: Target) -> Verdict {
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
    // No later packet would find the flow created now.
    if service.flags & service_flags::HAS_NAT == 0 {
        return Verdict::Drop(DropReason::Internal);
    }
    Verdict::Open(target)
}

/// Returns the service of a packet.
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

/// Returns whether services or `nat` use an address.
#[inline(always)]
pub(crate) fn is_address<T: Tables>(tables: &T, address: Address, family: u8) -> bool {
    address_flags(tables, address, family).is_some()
}

/// Returns the [`service_flags`] of an address that services or `nat` use.
#[inline(always)]
pub(crate) fn address_flags<T: Tables>(tables: &T, address: Address, family: u8) -> Option<u32> {
    let config = tables.config()?;
    let active = config.active & 1;
    let key = ServiceKey {
        address,
        port: 0,
        protocol: 0,
        family,
        class: 0,
    };
    look_up(&key, tables, active, &config.banks[active as usize]).map(|found| found.flags)
}
