//! The flow table: flows whose member differs from the owner of their slot.

use super::connection::QuicClassifier;
use crate::{
    abi::FlowEntry,
    tables::{Step, Tables},
    wire::Packet,
};

/// Maximum distance of a connection's first segments from its SYN: a window that is not scaled yet.
const MAX_FIRST_WINDOW_BYTES: u32 = 1 << 16;

/// Returns the member of a flow in the flow table. A flow that continues after its SYN moves to
/// where SYNs cannot evict it. Its slot is updated, because tables move.
#[inline(always)]
pub(super) fn flow_table_member<T: Tables>(
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
            promote(packet, tables, slot, entry);
        }
        return Some(entry.member);
    }
    let number = sequence_number(packet, classifier);
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
    if !follows_syn(number, &entry) {
        return None;
    }
    promote(packet, tables, slot, entry);
    Some(entry.member)
}

/// Returns the member of the connection that a SYN has started, if a segment is its next one; 0
/// otherwise. A flow between the same ends may still be open at a draining member.
#[inline(always)]
pub(super) fn new_connection_member<T: Tables>(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    tables: &T,
    slot: u32,
) -> u16 {
    let number = sequence_number(packet, classifier);
    let Some(entry) = tables.new_flow(&packet.key) else {
        return 0;
    };
    if number == 0 || !packet.is_tcp() || !follows_syn(number, &entry) {
        return 0;
    }
    promote(packet, tables, slot, entry);
    entry.member
}

/// Moves a flow to where SYNs cannot evict it.
#[inline(always)]
fn promote<T: Tables>(packet: &Packet, tables: &T, slot: u32, entry: FlowEntry) {
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

/// Returns the sequence number of a TCP segment, which is never 0; 0 if it is not available.
#[inline(always)]
fn sequence_number(packet: &Packet, classifier: &impl QuicClassifier) -> u32 {
    match classifier.tcp_numbers(packet) {
        Some([number, _]) if number != 0 => number,
        Some(_) => 1,
        None => 0,
    }
}

/// Returns whether a segment can be the first one after the SYN of an entry. Others belong to an
/// earlier connection, which a forged SYN does not move. Entries of another version have no number.
#[inline(always)]
const fn follows_syn(number: u32, entry: &FlowEntry) -> bool {
    let initial = entry.initial();
    initial == 0 || number.wrapping_sub(initial) <= MAX_FIRST_WINDOW_BYTES
}

/// Inserts a flow into the flow table. Returns false on failure.
#[inline(always)]
pub(super) fn insert<T: Tables>(
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
        entry.with_initial(sequence_number(packet, classifier))
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
