//! Decisions for first fragments, stored for later ones.

use crate::{
    abi::{Address, FragmentEntry, FragmentFate, FragmentKey},
    tables::Tables,
    wire::Packet,
};

#[inline(always)]
pub(crate) fn key(
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

/// Stores the decision for a first fragment. Returns false on failure: the rest would be lost.
#[inline(always)]
pub(crate) fn record<T: Tables>(
    packet: &Packet,
    tables: &T,
    fate: FragmentFate,
    member: u16,
) -> bool {
    let entry = FragmentEntry {
        seen_ticks: tables.now_ticks(),
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
