//! Flows with rewritten addresses.

use crate::{
    abi::{Config, FlowKey, Mode, NAT_ADDRESSES, NatForward, NatReverse, NatState, Service, age},
    decide::lost,
    hash,
    tables::{Step, Tables},
    verdict::{DropReason, Target, Verdict},
    wire::{FIN, Packet, RST},
};

/// Ports that are tried for a new flow before it is refused.
const ATTEMPTS: u32 = 8;
/// Makes the hash for ports another one than that for slots.
const PORT_SEED: u64 = 0x5851_f42d_4c95_7f2d;

pub(crate) enum Known {
    Decided(Verdict),
    /// Not in the table, or not any more; the member did not answer.
    Unknown {
        avoid: u16,
    },
}

/// What the nat table says of a client's packet.
#[inline(always)]
pub(crate) fn known<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    service: &Service,
) -> Known {
    let now = tables.now_ms();
    let opens = packet.opens_tcp();
    let state = state_after(packet.tcp_flags);
    let found = tables.with_forward(&packet.key, |entry| {
        let before = *entry;
        if !opens {
            entry.last_ms = now;
            entry.state = advance(entry.state, state, false);
        }
        before
    });
    let Some(entry) = found else {
        return Known::Unknown { avoid: 0 };
    };
    tables.note(Step::Translated(entry.member));
    if opens {
        if entry.state >= NatState::Closing as u8 {
            forget(packet, tables, &entry);
            return Known::Unknown { avoid: 0 };
        }
        let unanswered = entry.state == NatState::Opening as u8
            && age(now, entry.opened_ms) >= config.nat_retry_ms;
        if unanswered {
            tables.note(Step::Retry(entry.member));
            forget(packet, tables, &entry);
            return Known::Unknown {
                avoid: entry.member,
            };
        }
    }
    let usable = tables.member(entry.member).filter(|m| m.keeps_open());
    let Some(member) = usable else {
        tables.note(Step::Unusable(entry.member));
        forget(packet, tables, &entry);
        if packet.is_tcp() && !opens {
            return Known::Decided(match lost(packet, service, DropReason::MemberDown) {
                DropReason::Reset => Verdict::Reset,
                reason => Verdict::Drop(reason),
            });
        }
        return Known::Unknown { avoid: 0 };
    };
    if state == NatState::Closed {
        // The backend's own packets no longer say that the flow is over.
        tables.with_reverse(&reverse_key(packet, &entry), |e| {
            e.state = NatState::Closed as u8;
        });
    }
    let target = Target {
        id: entry.member,
        mode: member.mode,
        new: false,
    };
    Known::Decided(Verdict::Forward(target, entry))
}

/// Gives a new flow an address and a port of ours, and notes both directions.
#[inline(always)]
pub(crate) fn open<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    target: Target,
) -> Verdict {
    let Some(member) = tables.member(target.id) else {
        return Verdict::Drop(DropReason::Internal);
    };
    if member.mode != Mode::Nat as u8 || member.family != packet.key.family {
        return Verdict::Drop(DropReason::Internal);
    }
    let (count, first_source) = if packet.is_v6() {
        (config.nat_v6, NAT_ADDRESSES)
    } else {
        (config.nat_v4, 0)
    };
    let now = tables.now_ms();
    let mut forward = NatForward {
        last_ms: now,
        opened_ms: now,
        backend_port: match member.port {
            0 => packet.key.destination_port,
            port => port,
        },
        member: target.id,
        backend: member.address,
        ..NatForward::default()
    };
    let reverse = NatReverse {
        vip: packet.key.destination,
        client: packet.key.source,
        last_ms: now,
        interface: packet.interface,
        vip_port: packet.key.destination_port,
        client_port: packet.key.source_port,
        member: target.id,
        state: NatState::Opening as u8,
        _pad: 0,
        macs: packet.macs.swapped(),
        _reserved: 0,
    };
    let mut random = hash::flow(&packet.key, config.flow_seed ^ PORT_SEED);
    for _ in 0..ATTEMPTS {
        let source = first_source + hash::reduce(random << 16, u32::from(count));
        let Some(source) = tables.nat_source(source) else {
            break;
        };
        forward.source = source;
        let offset = hash::reduce(random, u32::from(config.nat_port_count));
        forward.source_port = config.nat_port_first.wrapping_add(offset as u16);
        if claim(packet, tables, config, &forward, &reverse) {
            if !tables.set_forward(&packet.key, &forward) {
                return Verdict::Drop(DropReason::FlowTableFull);
            }
            tables.note(Step::Insert(target.id));
            let target = Target {
                new: true,
                ..target
            };
            return Verdict::Forward(target, forward);
        }
        random = random
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(0x1234_5678_9abc_def1);
    }
    Verdict::Drop(DropReason::NatPortsExhausted)
}

/// Takes a port: a free one, or one whose flow is over.
#[inline(always)]
fn claim<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    forward: &NatForward,
    reverse: &NatReverse,
) -> bool {
    let key = reverse_key(packet, forward);
    if tables.add_reverse(&key, reverse) {
        return true;
    }
    let over = tables.with_reverse(&key, |entry| {
        let idle = age(reverse.last_ms, entry.last_ms);
        // A flow that only the client still talks on shows in its own entry; its idle time is
        // long enough for the sweep to have looked there.
        idle > config.nat_idle_ms
            || (entry.state >= NatState::Closing as u8 && idle > config.nat_closed_ms)
    });
    if over != Some(true) {
        return false;
    }
    tables.remove_reverse(&key);
    tables.add_reverse(&key, reverse)
}

/// What becomes of a packet for one of the addresses that `nat` uses.
#[inline(always)]
pub(crate) fn reply<T: Tables>(packet: &Packet, tables: &T) -> Verdict {
    let now = tables.now_ms();
    let state = state_after(packet.tcp_flags);
    let found = tables.with_reverse(&packet.key, |entry| {
        let before = entry.state;
        entry.last_ms = now;
        entry.state = advance(before, state, true);
        (*entry, before)
    });
    let Some((entry, before)) = found else {
        return Verdict::Pass;
    };
    if packet.fragment || !packet.well_formed {
        return Verdict::Drop(if packet.fragment {
            DropReason::Fragment
        } else {
            DropReason::Malformed
        });
    }
    if entry.state != before {
        let key = FlowKey {
            source: entry.client,
            destination: entry.vip,
            source_port: entry.client_port,
            destination_port: entry.vip_port,
            protocol: packet.key.protocol,
            family: packet.key.family,
            _pad: 0,
        };
        tables.with_forward(&key, |forward| {
            forward.state = advance(forward.state, state, true);
        });
    }
    tables.count_reply(entry.member);
    Verdict::Return(entry)
}

/// Ends a flow and frees its port, unless that has become another's since one of the two entries
/// was evicted.
#[inline(always)]
fn forget<T: Tables>(packet: &Packet, tables: &T, entry: &NatForward) {
    tables.remove_forward(&packet.key);
    let key = reverse_key(packet, entry);
    let is_ours = tables.with_reverse(&key, |reverse| {
        reverse.client == packet.key.source
            && reverse.client_port == packet.key.source_port
            && reverse.vip == packet.key.destination
            && reverse.vip_port == packet.key.destination_port
    });
    if is_ours == Some(true) {
        tables.remove_reverse(&key);
    }
}

/// The key of the backend's packets.
#[inline(always)]
fn reverse_key(packet: &Packet, entry: &NatForward) -> FlowKey {
    FlowKey {
        source: entry.backend,
        destination: entry.source,
        source_port: entry.backend_port,
        destination_port: entry.source_port,
        protocol: packet.key.protocol,
        family: packet.key.family,
        _pad: 0,
    }
}

/// How far a packet with these flags brings a flow.
#[inline(always)]
const fn state_after(flags: u8) -> NatState {
    if flags & RST != 0 {
        NatState::Closed
    } else if flags & FIN != 0 {
        NatState::Closing
    } else {
        NatState::Open
    }
}

/// States only go forward; only the backend's answer opens a flow.
#[inline(always)]
const fn advance(state: u8, to: NatState, answered: bool) -> u8 {
    let to = to as u8;
    if to > state && (answered || to != NatState::Open as u8) {
        to
    } else {
        state
    }
}
