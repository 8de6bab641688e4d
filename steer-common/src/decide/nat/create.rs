//! Creation of nat flows.

use super::{
    super::in_flight, client_hop::client_next_hop, ports::claim_port, reverse_key, segment::Segment,
};
use crate::{
    abi::{Address, Config, FlowKey, Mode, NatForward, NatReverse, Sequence, nat_state},
    tables::{InsertResult, Step, Tables},
    verdict::{DropReason, Endpoints},
    wire::Packet,
};

/// Assigns an address and a port of ours to a new flow of a member, and creates both entries, with
/// the sequence and acknowledgment number of a SYN. Only the last round decides that all tried
/// ports are taken.
#[inline(always)]
pub(crate) fn create<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    (id, round): (u16, u16),
    numbers: [u32; 2],
) -> Result<(), DropReason> {
    let Some(member) = tables.member(id) else {
        return Err(DropReason::Internal);
    };
    if member.mode != Mode::Nat as u8 || member.family != packet.key.family {
        return Err(DropReason::Internal);
    }
    let now = tables.now_ticks();
    if round == 0 {
        evict_unassured(packet, tables, config, now);
    }
    let segment = Segment::new(packet, numbers);
    let done = tables.with_nat_scratch(|forward, reverse| {
        *reverse = NatReverse {
            vip: packet.key.destination,
            client: packet.key.source,
            last_ticks: now,
            vip_port: packet.key.destination_port,
            client_port: packet.key.source_port,
            member: id,
            state: 0,
            peer_state: 0,
            key_member: packet.key.member,
            _pad: 0,
            request_ns: if config.burst_gap_us != 0 {
                tables.now_precise_ns()
            } else {
                0
            },
            last_answer_ns: 0,
            client_hop: client_next_hop(packet, config),
            sequence: Sequence {
                acknowledged: if packet.is_tcp() { segment.end() } else { 0 },
                ..Sequence::default()
            },
        };
        let mut ends = Endpoints {
            source: Address::default(),
            destination: member.address,
            source_port: 0,
            destination_port: match member.port {
                0 => packet.key.destination_port,
                port => port,
            },
        };
        match claim_port(packet, tables, config, round, &mut ends, reverse) {
            InsertResult::Inserted => {}
            InsertResult::Exists => return DropReason::NatPortsExhausted as u32,
            InsertResult::Full => return DropReason::FlowTableFull as u32,
        }
        *forward = NatForward {
            source: ends.source,
            last_ticks: now,
            opened_ticks: now,
            source_port: ends.source_port,
            backend_port: ends.destination_port,
            member: id,
            state: nat_state::NEW,
            peer_state: 0,
            backend: ends.destination,
            client_hop: reverse.client_hop,
            sequence: if packet.is_tcp() {
                Sequence::of_syn(&segment)
            } else {
                Sequence::default()
            },
        };
        if !tables.set_forward(&packet.key, forward) {
            tables.remove_reverse(&reverse_key(packet, &ends));
            return DropReason::FlowTableFull as u32;
        }
        0
    });
    match done {
        Some(0) => {
            tables.trace_step(Step::Insert(id));
            in_flight::adjust(tables, id, 1);
            Ok(())
        }
        Some(reason) if reason == DropReason::NatPortsExhausted as u32 => {
            Err(DropReason::NatPortsExhausted)
        }
        Some(_) => Err(DropReason::FlowTableFull),
        None => Err(DropReason::Internal),
    }
}

/// Puts a new flow into the ring of its kind in place of the oldest one, which is evicted unless it
/// is assured by now.
#[inline(always)]
fn evict_unassured<T: Tables>(packet: &Packet, tables: &T, config: &Config, now: u32) {
    tables.with_unassured(config.nat_unassured_max, |opening| {
        let mut reverse = FlowKey::default();
        let (mut member, mut over) = (0, false);
        let found = tables.with_forward(&opening.key, |entry| {
            reverse = entry.reverse_key(&opening.key);
            member = entry.member;
            over = nat_state::is_closed(entry.state | entry.peer_state);
            entry.opened_ticks == opening.opened_ticks && entry.state & nat_state::ASSURED == 0
        });
        if found == Some(true) {
            if !over {
                in_flight::adjust(tables, member, -1);
            }
            tables.remove_forward(&opening.key);
            tables.remove_reverse(&reverse);
        }
        opening.key = packet.key;
        opening.opened_ticks = now;
    });
}
