//! The program for later fragments, which go where the first one went.
//!
//! Only first fragments have ports, so the decision is stored for as long as a receiver waits for
//! the rest. A later fragment that arrives before the first one goes to the kernel if that does not
//! forward it, and is dropped otherwise, because its destination is unknown.

use crate::{
    abi::{FlowKey, FragmentFate, age, service_flags},
    decide::{
        class::classify,
        eligibility::may_serve,
        fragments, nat,
        service::{address_flags, find_service},
    },
    frame::Frame,
    tables::Tables,
    transmit::{Outcome, deliver, forward, reply},
    verdict::{DropReason, Target},
    wire::{
        self, Network, PROTOCOL_TCP, PROTOCOL_UDP, Packet, PacketKind, is_extension,
        without_transport,
    },
};

/// Maximum time between a packet's fragments in ticks: Linux waits as long (`ipfrag_time`), half of
/// what RFC 8200 section 4.5 allows.
const MAX_LIFETIME_TICKS: u32 = 30_000;

/// Sends a later fragment where the first one went.
#[inline(always)]
pub fn later_fragment<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(network) = wire::network(frame) else {
        return Outcome::PASSED;
    };
    let network = network.laundered(frame);
    follow_first(frame, interface, &network, tables).without_icmp_answer()
}

/// Returns the outcome of a later fragment: that of the first one.
#[inline(always)]
fn follow_first<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    network: &Network,
    tables: &T,
) -> Outcome {
    let Some(flags) = address_flags(tables, network.destination, network.family) else {
        return Outcome::PASSED;
    };
    let fragment = Outcome::drop(DropReason::Fragment);
    let now = tables.now_ticks();
    let addresses = (network.source, network.destination);
    let key = fragments::key(addresses, network.family, network.protocol, network.id);
    let entry = tables.fragment(&key);
    let Some(entry) = entry.filter(|entry| age(now, entry.seen_ticks) <= MAX_LIFETIME_TICKS) else {
        // A fragment of something for the kernel, or one that arrived before the first one: the
        // kernel reassembles packets for itself, but must not forward what a service would have
        // sent elsewhere.
        let is_ours = may_be_served(flags, network.family, network.protocol);
        let passes = !is_ours || tables.is_local(network.destination, network.family, interface);
        return if passes { Outcome::PASSED } else { fragment };
    };
    if entry.fate == FragmentFate::Passed as u8 {
        return Outcome::PASSED;
    }
    // It would overwrite the flags by which the first one was judged (RFC 3128).
    if entry.protocol == PROTOCOL_TCP && network.offset == 1 {
        return fragment;
    }
    let ports = [entry.source_port, entry.destination_port];
    let Some(packet) = without_transport(frame, interface, network, entry.protocol, ports) else {
        return fragment;
    };
    tables.trace_flow(&packet.key);
    if !packet.well_formed {
        return Outcome::drop(DropReason::Malformed);
    }
    let packet = Packet {
        kind: PacketKind::LaterFragment,
        ..packet
    };
    if entry.fate == FragmentFate::Returned as u8 {
        let found = tables.with_reverse(&packet.key, |entry| {
            (entry.member, nat::to_client(entry), entry.client_hop)
        });
        return match found {
            Some((member, ends, back)) => reply(frame, &packet, tables, member, &ends, &back),
            None => fragment,
        };
    }
    let service = tables
        .config()
        .and_then(|config| find_service(&packet, tables, config));
    let Some(service) = service else {
        return fragment;
    };
    let Some(service) = classify(&packet, tables, service) else {
        return Outcome::drop(DropReason::Internal);
    };
    if entry.fate == FragmentFate::Delivered as u8 {
        let Some(member) = tables.member(entry.member) else {
            return fragment;
        };
        if !member.keeps_open() {
            return Outcome::drop(DropReason::MemberDown);
        }
        if !may_serve(service, member) {
            return Outcome::drop(DropReason::Residency);
        }
        let target = Target {
            id: entry.member,
            mode: member.mode,
            begins: 0,
        };
        return deliver(frame, &packet, tables, target, member);
    }
    let is_quic = service.flags & service_flags::QUIC != 0;
    let key = FlowKey {
        member: if is_quic { entry.member } else { 0 },
        ..packet.key
    };
    let found = tables.with_forward(&key, |entry| (entry.member, nat::to_member(entry)));
    let Some((id, ends)) = found else {
        return fragment;
    };
    let allowed = tables
        .member(id)
        .is_some_and(|member| may_serve(service, member));
    if !allowed {
        return Outcome::drop(DropReason::Residency);
    }
    let target = Target {
        id,
        mode: 0,
        begins: 0,
    };
    forward(frame, &packet, tables, target, &ends)
}

/// Returns whether a fragment of this protocol may belong to a service of an address with these
/// flags. In IPv6 the number may be that of another header.
#[inline(always)]
const fn may_be_served(flags: u32, family: u8, protocol: u8) -> bool {
    const BOTH: u32 = service_flags::ADDRESS_TCP | service_flags::ADDRESS_UDP;
    let wanted = match protocol {
        PROTOCOL_TCP => service_flags::ADDRESS_TCP,
        PROTOCOL_UDP => service_flags::ADDRESS_UDP,
        _ if family == 6 && is_extension(protocol) => BOTH,
        _ => 0,
    };
    flags & wanted != 0
}
