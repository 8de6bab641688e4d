//! Fragments: the first one carries the decision, later ones follow it.
//!
//! Only first fragments have ports, so what became of them is remembered for as long as a receiver
//! waits for the rest. A later one that comes before the first goes to the kernel where that keeps it to itself,
//! and is dropped elsewhere: nothing says where to.

use crate::{
    abi::{Address, FlowKey, FragmentEntry, FragmentFate, FragmentKey, age, service_flags},
    choose::may_serve,
    class::classify,
    decide::{address_flags, find},
    frame::Frame,
    nat,
    process::{Outcome, deliver, forward, give_back},
    tables::Tables,
    verdict::{DropReason, Target},
    wire::{Network, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Part, bare, is_extension},
};

/// How long a packet's parts may be apart, in ticks: what Linux waits (`ipfrag_time`), half of what
/// RFC 8200 section 4.5 allows.
const LIFETIME: u32 = 30_000;

#[inline(always)]
fn key(
    (source, destination): (Address, Address),
    family: u8,
    protocol: u8,
    id: u32,
) -> FragmentKey {
    FragmentKey {
        source,
        destination,
        id,
        protocol: if family == 4 { protocol } else { 0 },
        family,
        _pad: 0,
    }
}

/// Notes what was decided for a first fragment. False if that failed: the rest would be
/// lost.
#[inline(always)]
pub(crate) fn note<T: Tables>(
    packet: &Packet,
    tables: &T,
    fate: FragmentFate,
    member: u16,
) -> bool {
    let entry = FragmentEntry {
        at_ms: tables.now_ms(),
        source_port: packet.key.source_port,
        destination_port: packet.key.destination_port,
        member,
        protocol: packet.key.protocol,
        fate: fate as u8,
    };
    let flow = &packet.key;
    let addresses = (flow.source, flow.destination);
    tables.set_fragment(
        &key(addresses, flow.family, flow.protocol, packet.id),
        &entry,
    )
}

/// Whether a service of an address with these flags may be what a fragment of this protocol is for. In IPv6 that may
/// be the number of another header.
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

/// Sends a later fragment where the first one went.
#[inline(always)]
pub(crate) fn follow<F: Frame, T: Tables>(
    frame: &mut F,
    interface: u32,
    network: &Network,
    tables: &T,
) -> Outcome {
    let Some(flags) = address_flags(tables, network.destination, network.family) else {
        return Outcome::PASSED;
    };
    let fragment = Outcome::drop(DropReason::Fragment);
    let now = tables.now_ms();
    let addresses = (network.source, network.destination);
    let key = key(addresses, network.family, network.protocol, network.id);
    let entry = tables.fragment(&key);
    let Some(entry) = entry.filter(|entry| age(now, entry.at_ms) <= LIFETIME) else {
        // A part of something that is the kernel's, or that came before the first one: the kernel puts together
        // what is for itself. It must not forward what a service would have sent elsewhere.
        let is_ours = may_be_served(flags, network.family, network.protocol);
        let passes = !is_ours || tables.keeps(network.destination, network.family, interface);
        return if passes { Outcome::PASSED } else { fragment };
    };
    if entry.fate == FragmentFate::Passed as u8 {
        return Outcome::PASSED;
    }
    // It would overwrite the flags that the first one was judged by (RFC 3128).
    if entry.protocol == PROTOCOL_TCP && network.offset == 1 {
        return fragment;
    }
    let ports = [entry.source_port, entry.destination_port];
    let Some(packet) = bare(frame, interface, network, entry.protocol, ports) else {
        return fragment;
    };
    tables.see(&packet.key);
    if !packet.well_formed {
        return Outcome::drop(DropReason::Malformed);
    }
    let packet = Packet {
        part: Part::Later,
        ..packet
    };
    if entry.fate == FragmentFate::Returned as u8 {
        let found = tables.with_reverse(&packet.key, |entry| {
            (entry.member, nat::to_client(entry), entry.back)
        });
        return match found {
            Some((member, ends, back)) => give_back(frame, &packet, tables, member, &ends, &back),
            None => fragment,
        };
    }
    let service = tables
        .config()
        .and_then(|config| find(&packet, tables, config));
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
