//! The decision: the action for a packet, and its member.

pub(crate) mod admission;
mod choose;
pub(crate) mod class;
pub mod connection;
pub(crate) mod eligibility;
mod flow_table;
pub(crate) mod fragments;
mod handshake;
mod in_flight;
pub(crate) mod nat;
pub mod quic_header;
pub(crate) mod service;

use self::{
    choose::choose, class::classify, connection::QuicClassifier, eligibility::refuse_open_flow,
    quic_header::ConnectionHint, service::find_service,
};
use crate::{
    abi::{Config, Member, Mode, Service, begins, service_flags},
    tables::{Step, Tables},
    verdict::{DropReason, Target, Verdict},
    wire::{Packet, PacketKind},
};

/// Decides about a packet, and writes to the tables what later packets need. `classifier` gives
/// the connection hint of a packet for a QUIC service.
#[inline(always)]
pub fn decide<T: Tables, L: QuicClassifier>(
    packet: &Packet,
    tables: &T,
    classifier: &L,
) -> Verdict {
    decide_for(packet, tables, classifier, &mut None)
}

/// Decides like [`decide`], and stores the member of [`Verdict::Encap`] in `chosen` to save a
/// second look-up.
#[inline(always)]
pub(crate) fn decide_for<'t, T: Tables, L: QuicClassifier>(
    packet: &Packet,
    tables: &'t T,
    classifier: &L,
    chosen: &mut Option<&'t Member>,
) -> Verdict {
    tables.trace_flow(&packet.key);
    let Some(config) = tables.config() else {
        return Verdict::Pass;
    };
    let Some(service) = find_service(packet, tables, config) else {
        return Verdict::Pass;
    };
    if service.flags & (service_flags::NAT_SOURCE | service_flags::QUIC) != 0 {
        if service.flags & service_flags::NAT_SOURCE != 0 {
            return nat::reply(packet, tables, classifier, config);
        }
        if let Some(verdict) = classifier.quic(packet, tables, config, service, chosen) {
            return verdict;
        }
    }
    steer_to_member(packet, tables, classifier, config, service, chosen)
}

/// Decides about a packet for a service.
#[inline(always)]
pub(crate) fn steer_to_member<'t, T: Tables, L: QuicClassifier>(
    packet: &Packet,
    tables: &'t T,
    classifier: &L,
    config: &Config,
    service: &'t Service,
    chosen: &mut Option<&'t Member>,
) -> Verdict {
    tables.trace_step(Step::Service(service.id));
    if !packet.well_formed {
        return Verdict::Drop(DropReason::Malformed);
    }
    if config.denies != 0 && tables.is_denied(&packet.key.source) {
        tables.count_refusal(service.id, DropReason::Denied);
        return Verdict::Drop(DropReason::Denied);
    }
    // Server ids are those of the service: a client that moves into another class keeps its member.
    let hint = classifier.connection_hint(config, service);
    let Some(service) = classify(packet, tables, service) else {
        return Verdict::Drop(DropReason::Internal);
    };
    let mut avoid = 0;
    if service.flags & service_flags::HAS_NAT != 0 && !classifier.is_quic(service) {
        match nat::lookup(packet, tables, classifier, config, service) {
            nat::Lookup::Decided(verdict) => return verdict,
            nat::Lookup::Unknown { avoid: member } => avoid = member,
        }
    }
    assign(
        packet,
        tables,
        classifier,
        (hint, avoid),
        config,
        service,
        chosen,
    )
}

/// Decides which member of a service or class gets a packet that is not in the nat table. `avoid`
/// did not answer its flow.
#[inline(always)]
pub(crate) fn assign<'t, T: Tables, L: QuicClassifier>(
    packet: &Packet,
    tables: &'t T,
    classifier: &L,
    (hint, avoid): (ConnectionHint, u16),
    config: &Config,
    service: &Service,
    chosen: &mut Option<&'t Member>,
) -> Verdict {
    let choice = choose(packet, classifier, hint, tables, config, service, avoid);
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
        let is_answered = packet.is_pure_ack() as u8 * begins::ANSWER;
        let target = Target {
            begins: target.begins | is_answered,
            ..target
        };
        *chosen = Some(member);
        return Verdict::Encap(target);
    }
    translated(packet, classifier, service, target)
}

/// Returns the verdict for a packet that is not in the nat table and whose member has mode `nat`.
#[inline(always)]
fn translated(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    service: &Service,
    target: Target,
) -> Verdict {
    if classifier.is_quic(service) {
        return Verdict::NatQuic(target);
    }
    if packet.kind as u8 == PacketKind::IcmpError as u8 {
        return Verdict::Pass;
    }
    if packet.is_tcp() && target.begins & begins::FLOW == 0 {
        return Verdict::of_refusal(refuse_open_flow(
            packet,
            service,
            DropReason::NatUnknownFlow,
        ));
    }
    // No later packet would find the flow created now.
    if service.flags & service_flags::HAS_NAT == 0 {
        return Verdict::Drop(DropReason::Internal);
    }
    Verdict::NatCreate(target)
}
