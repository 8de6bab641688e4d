//! Flows with rewritten addresses.

use crate::{
    abi::{
        Address, Back, Config, FlowKey, Mode, NAT_ADDRESSES, NatForward, NatReverse, Service, age,
        nat_state,
    },
    decide::{lost, may_serve},
    hash,
    tables::{Step, Tables},
    verdict::{DropReason, Ends, Target, Verdict},
    wire::{ETHERNET_HEADER, FIN, Packet, Part, RST, VLAN_TAG},
};

/// Ports that are tried for a new flow before it is refused: of a backend's ports nine in ten can be
/// taken, and less than one flow in five finds none.
const ATTEMPTS: u32 = 16;
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
    let is_quote = packet.part as u8 == Part::Quote as u8;
    let heard = heard(packet, nat_state::CLIENT_DONE);
    let back = way_back(packet);
    let found = tables.with_forward(&packet.key, |entry| {
        let seen = Seen {
            ends: to_member(entry),
            opened_ms: entry.opened_ms,
            member: entry.member,
            state: entry.state,
            fresh: entry.state & nat_state::FRESH != 0,
            news: entry.state | heard != entry.state || entry.back != back,
        };
        if seen.fresh {
            entry.state &= !nat_state::FRESH;
        } else if !opens && !is_quote {
            entry.last_ms = now;
            entry.state |= heard;
            entry.back = back;
        }
        seen
    });
    let Some(entry) = found else {
        return Known::Unknown { avoid: 0 };
    };
    tables.note(Step::Translated(entry.member));
    if opens && !entry.fresh {
        if nat_state::is_over(entry.state) {
            forget(packet, tables, &entry.ends);
            return Known::Unknown { avoid: 0 };
        }
        let unanswered = entry.state & nat_state::ANSWERED == 0
            && age(now, entry.opened_ms) >= config.nat_retry_ms;
        if unanswered {
            tables.note(Step::Retry(entry.member));
            forget(packet, tables, &entry.ends);
            return Known::Unknown {
                avoid: entry.member,
            };
        }
    }
    let usable = tables.member(entry.member).filter(|m| m.keeps_open());
    let Some(member) = usable else {
        tables.note(Step::Unusable(entry.member));
        if is_quote {
            return Known::Decided(Verdict::Drop(DropReason::MemberDown));
        }
        forget(packet, tables, &entry.ends);
        if packet.is_tcp() && !opens {
            return Known::Decided(match lost(packet, service, DropReason::MemberDown) {
                DropReason::Reset => Verdict::Reset,
                reason => Verdict::Drop(reason),
            });
        }
        return Known::Unknown { avoid: 0 };
    };
    if !may_serve(service, member) {
        tables.note(Step::Outside(entry.member));
        return Known::Decided(Verdict::Drop(DropReason::Residency));
    }
    if entry.news && !opens && !is_quote {
        // The backend's own packets do not say it.
        tables.with_reverse(&reverse_key(packet, &entry.ends), |e| {
            e.state |= heard;
            e.back = back;
        });
    }
    let target = Target {
        id: entry.member,
        mode: member.mode,
        new: entry.fresh,
    };
    Known::Decided(Verdict::Forward(target, entry.ends))
}

/// What is looked at of an entry. A whole copy would not fit on the kernel's stack.
struct Seen {
    ends: Ends,
    opened_ms: u32,
    member: u16,
    state: u8,
    /// Whether the packet is the one that opened the flow.
    fresh: bool,
    /// Whether the packet says something that the entry did not hold.
    news: bool,
}

/// What a client's packet becomes.
#[inline(always)]
pub(crate) const fn to_member(entry: &NatForward) -> Ends {
    Ends {
        source: entry.source,
        destination: entry.backend,
        source_port: entry.source_port,
        destination_port: entry.backend_port,
    }
}

/// What a backend's packet becomes.
#[inline(always)]
pub(crate) const fn to_client(entry: &NatReverse) -> Ends {
    Ends {
        source: entry.vip,
        destination: entry.client,
        source_port: entry.vip_port,
        destination_port: entry.client_port,
    }
}

/// Gives a new flow to a member an address and a port of ours, and notes both directions.
#[inline(always)]
pub(crate) fn open<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    id: u16,
) -> Result<(), DropReason> {
    let Some(member) = tables.member(id) else {
        return Err(DropReason::Internal);
    };
    if member.mode != Mode::Nat as u8 || member.family != packet.key.family {
        return Err(DropReason::Internal);
    }
    let (count, first_source) = if packet.is_v6() {
        (config.nat_v6, NAT_ADDRESSES)
    } else {
        (config.nat_v4, 0)
    };
    let now = tables.now_ms();
    let mut ends = Ends {
        source: Address::default(),
        destination: member.address,
        source_port: 0,
        destination_port: match member.port {
            0 => packet.key.destination_port,
            port => port,
        },
    };
    let reverse = NatReverse {
        vip: packet.key.destination,
        client: packet.key.source,
        last_ms: now,
        vip_port: packet.key.destination_port,
        client_port: packet.key.source_port,
        member: id,
        state: 0,
        _pad: [0; 5],
        back: way_back(packet),
    };
    let mut random = hash::flow(&packet.key, config.flow_seed ^ PORT_SEED);
    let mut claimed = false;
    for _ in 0..ATTEMPTS {
        let source = first_source + hash::reduce(random << 16, u32::from(count));
        let Some(source) = tables.nat_source(source) else {
            break;
        };
        ends.source = source;
        let offset = hash::reduce(random, u32::from(config.nat_port_count));
        ends.source_port = config.nat_port_first.wrapping_add(offset as u16);
        if claim(packet, tables, config, &ends, &reverse) {
            claimed = true;
            break;
        }
        random = random
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(0x1234_5678_9abc_def1);
    }
    if !claimed {
        return Err(DropReason::NatPortsExhausted);
    }
    let forward = NatForward {
        source: ends.source,
        last_ms: now,
        opened_ms: now,
        source_port: ends.source_port,
        backend_port: ends.destination_port,
        member: id,
        state: nat_state::FRESH,
        _pad: 0,
        backend: ends.destination,
        back: reverse.back,
    };
    if !tables.set_forward(&packet.key, &forward) {
        return Err(DropReason::FlowTableFull);
    }
    tables.note(Step::Insert(id));
    Ok(())
}

/// Takes a port: a free one, or one whose flow is over.
#[inline(always)]
fn claim<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    ends: &Ends,
    reverse: &NatReverse,
) -> bool {
    let key = reverse_key(packet, ends);
    if tables.add_reverse(&key, reverse) {
        return true;
    }
    let over = tables.with_reverse(&key, |entry| {
        let idle = age(reverse.last_ms, entry.last_ms);
        // A flow that only the client still talks on shows in its own entry; its idle time is
        // long enough for the sweep to have looked there.
        let longest = if packet.is_tcp() {
            config.nat_idle_ms
        } else {
            config.nat_udp_idle_ms
        };
        idle > longest || (nat_state::is_over(entry.state) && idle > config.nat_closed_ms)
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
    if packet.part as u8 == Part::Quote as u8 {
        return match tables.with_reverse(&packet.key, |entry| *entry) {
            Some(entry) => Verdict::Return(entry.member, to_client(&entry), entry.back),
            None => Verdict::Pass,
        };
    }
    let now = tables.now_ms();
    let heard = heard(packet, nat_state::BACKEND_DONE) | nat_state::ANSWERED;
    let found = tables.with_reverse(&packet.key, |entry| {
        let before = entry.state;
        entry.last_ms = now;
        entry.state |= heard;
        (*entry, before)
    });
    let Some((entry, before)) = found else {
        return Verdict::Pass;
    };
    if !packet.well_formed {
        return Verdict::Drop(DropReason::Malformed);
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
        tables.with_forward(&key, |forward| forward.state |= heard);
    }
    Verdict::Return(entry.member, to_client(&entry), entry.back)
}

/// Ends a flow and frees its port, unless that has become another's since one of the two entries
/// was evicted.
#[inline(always)]
fn forget<T: Tables>(packet: &Packet, tables: &T, ends: &Ends) {
    tables.remove_forward(&packet.key);
    let key = reverse_key(packet, ends);
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
fn reverse_key(packet: &Packet, ends: &Ends) -> FlowKey {
    FlowKey {
        source: ends.destination,
        destination: ends.source,
        source_port: ends.destination_port,
        destination_port: ends.source_port,
        protocol: packet.key.protocol,
        family: packet.key.family,
        _pad: 0,
    }
}

/// What a packet says of its flow, in bits of [`nat_state`]; `done` is the bit of its sender.
#[inline(always)]
const fn heard(packet: &Packet, done: u8) -> u8 {
    let reset = if packet.tcp_flags & RST != 0 {
        nat_state::RESET
    } else {
        0
    };
    if packet.tcp_flags & FIN != 0 {
        reset | done
    } else {
        reset
    }
}

/// The way that a client's packet came, the other way round.
#[inline(always)]
fn way_back(packet: &Packet) -> Back {
    Back {
        macs: packet.macs.swapped(),
        // Without tags these are the first bytes of the packet.
        tags: if packet.network == ETHERNET_HEADER {
            0
        } else if packet.network == ETHERNET_HEADER + VLAN_TAG {
            (u64::from_le(packet.tags) & 0xffff_ffff).to_le()
        } else {
            packet.tags
        },
        interface: packet.interface,
        tags_len: (packet.network - ETHERNET_HEADER) as u32,
    }
}
