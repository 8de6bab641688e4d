//! Flows with rewritten addresses.
//!
//! The kernel evicts no entry of the nat table: both entries of a flow go together, by the daemon's sweep,
//! by the next flow that wants the port, or by newer flows while the client has not gone on after an
//! answer ([`make_room`]). So a port never belongs to two flows, and a flood of SYNs pushes out
//! others of its kind only.

use crate::{
    abi::{
        Address, Back, Config, FlowKey, Measure, Mode, NAT_ADDRESSES, NatForward, NatReverse,
        Service, Signal, age, begins, nat_state,
    },
    choose::{lost, may_serve},
    flight, hash,
    tables::{Added, Step, Tables},
    verdict::{DropReason, Ends, Target, Verdict},
    wire::{ACK, ETHERNET_HEADER, FIN, Packet, Part, RST, SYN, VLAN_TAG},
};

/// Ports that are tried for a new flow at a time, which the verifier follows one by one.
const ATTEMPTS: u32 = 16;
/// How many times before the flow is refused: with nine in ten of a backend's ports taken, one
/// flow in eight hundred finds none.
pub(crate) const ROUNDS: u16 = 4;
/// Makes the hash for ports another one than that for slots.
const PORT_SEED: u64 = 0x5851_f42d_4c95_7f2d;
/// A UDP flow on which the client still talks after so many ticks is none of a flood.
const LASTING: u32 = 1000;

/// Less is no request: what HTTP/2 and TLS say besides, and keep-alives.
const REQUEST: u32 = 96;
/// Less is no part of an answer: an alert of TLS, the end of a chunked body, "100 Continue".
const ANSWER: u32 = 32;

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
    let asks = is_measured(packet, config) && packet.payload() >= REQUEST;
    let back = way_back(packet);
    let found = tables.with_forward(&packet.key, |entry| {
        let before = entry.state;
        let mut seen = Seen {
            ends: to_member(entry),
            opened_ms: entry.opened_ms,
            member: entry.member,
            state: before,
            told: entry.told,
            fresh: before & nat_state::FRESH != 0,
            asks: false,
            news: false,
            before,
        };
        if seen.fresh {
            entry.state = before & !nat_state::FRESH;
        } else if !opens && !is_quote {
            let lasts = !packet.is_tcp() && age(now, entry.opened_ms) > LASTING;
            let mut state = before & !nat_state::RESET | heard;
            if entry.told & nat_state::ANSWERED != 0 || lasts {
                state |= nat_state::SETTLED;
            }
            if asks && !nat_state::is_waiting(before, entry.told) {
                state ^= nat_state::TURN;
                seen.asks = true;
            }
            seen.state = state;
            seen.news = state != before || entry.back != back;
            entry.last_ms = now;
            entry.state = state;
            entry.back = back;
        }
        seen
    });
    let Some(entry) = found else {
        return Known::Unknown { avoid: 0 };
    };
    tables.note(Step::Translated(entry.member));
    let flights = flights(entry.before | entry.told, entry.state | entry.told);
    flight::count(tables, entry.member, flights);
    if opens && !entry.fresh {
        if nat_state::is_over(entry.state | entry.told) {
            forget(packet, tables, &entry);
            return Known::Unknown { avoid: 0 };
        }
        let unanswered = entry.told & nat_state::ANSWERED == 0
            && age(now, entry.opened_ms) >= config.nat_retry_ms;
        if unanswered {
            tables.note(Step::Retry(entry.member));
            tables.signal(entry.member, Signal::Unanswered);
            forget(packet, tables, &entry);
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
        forget(packet, tables, &entry);
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
    if entry.news {
        // The backend's own packets do not say it.
        let asked_ns = if entry.asks { tables.now_fine() } else { 0 };
        tables.with_reverse(&reverse_key(packet, &entry.ends), |e| {
            if asked_ns != 0 {
                e.asked_ns = asked_ns;
            }
            e.told = entry.state;
            e.back = back;
        });
    }
    let target = Target {
        id: entry.member,
        mode: member.mode,
        begins: (entry.fresh as u8 * begins::FLOW) | (entry.asks as u8 * begins::REQUEST),
    };
    Known::Decided(Verdict::Forward(target, entry.ends))
}

/// Whether packets like this one are measured. Fragments are not.
#[inline(always)]
const fn is_measured(packet: &Packet, config: &Config) -> bool {
    config.burst_gap_us != 0 && packet.is_tcp() && packet.part as u8 == Part::Packet as u8
}

/// What is looked at of an entry. A whole copy would not fit on the kernel's stack.
struct Seen {
    ends: Ends,
    opened_ms: u32,
    member: u16,
    /// What the client has said, with this packet.
    state: u8,
    told: u8,
    /// Whether the packet is the one that opened the flow.
    fresh: bool,
    /// Whether the packet begins a request.
    asks: bool,
    /// Whether the packet says something that the entry did not hold.
    news: bool,
    /// What the client had said before.
    before: u8,
}

/// Flows in flight that a packet makes more, or less, by what was said before and is now.
#[inline(always)]
const fn flights(before: u8, now: u8) -> i64 {
    nat_state::is_over(before) as i64 - nat_state::is_over(now) as i64
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

/// Gives a new flow to a member an address and a port of ours, and notes both directions. That
/// the ports that were tried are taken is for good in the last round only.
#[inline(always)]
pub(crate) fn open<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    id: u16,
    round: u16,
) -> Result<(), DropReason> {
    let Some(member) = tables.member(id) else {
        return Err(DropReason::Internal);
    };
    if member.mode != Mode::Nat as u8 || member.family != packet.key.family {
        return Err(DropReason::Internal);
    }
    let now = tables.now_ms();
    if round == 0 {
        make_room(packet, tables, config, now);
    }
    let done = tables.with_draft(|forward, reverse| {
        *reverse = NatReverse {
            vip: packet.key.destination,
            client: packet.key.source,
            last_ms: now,
            vip_port: packet.key.destination_port,
            client_port: packet.key.source_port,
            member: id,
            state: 0,
            told: 0,
            key_member: packet.key.member,
            _pad: 0,
            asked_ns: if config.burst_gap_us != 0 {
                tables.now_fine()
            } else {
                0
            },
            heard_ns: 0,
            back: way_back(packet),
        };
        let mut ends = Ends {
            source: Address::default(),
            destination: member.address,
            source_port: 0,
            destination_port: match member.port {
                0 => packet.key.destination_port,
                port => port,
            },
        };
        match claim(packet, tables, config, round, &mut ends, reverse) {
            Added::Yes => {}
            Added::Taken => return DropReason::NatPortsExhausted as u32,
            Added::Full => return DropReason::FlowTableFull as u32,
        }
        *forward = NatForward {
            source: ends.source,
            last_ms: now,
            opened_ms: now,
            source_port: ends.source_port,
            backend_port: ends.destination_port,
            member: id,
            state: nat_state::FRESH,
            told: 0,
            backend: ends.destination,
            back: reverse.back,
        };
        if !tables.set_forward(&packet.key, forward) {
            tables.remove_reverse(&reverse_key(packet, &ends));
            return DropReason::FlowTableFull as u32;
        }
        0
    });
    match done {
        Some(0) => {
            tables.note(Step::Insert(id));
            flight::count(tables, id, 1);
            Ok(())
        }
        Some(reason) if reason == DropReason::NatPortsExhausted as u32 => {
            Err(DropReason::NatPortsExhausted)
        }
        Some(_) => Err(DropReason::FlowTableFull),
        None => Err(DropReason::Internal),
    }
}

/// Puts a new flow into the ring of its kind, where it takes the place of the oldest one. That one goes
/// unless it is settled by now.
#[inline(always)]
fn make_room<T: Tables>(packet: &Packet, tables: &T, config: &Config, now: u32) {
    tables.with_opening(config.nat_openings, |opening| {
        let mut reverse = FlowKey::default();
        let (mut member, mut over) = (0, false);
        let found = tables.with_forward(&opening.key, |entry| {
            reverse = entry.reverse_key(&opening.key);
            member = entry.member;
            over = nat_state::is_over(entry.state | entry.told);
            entry.opened_ms == opening.opened_ms && entry.state & nat_state::SETTLED == 0
        });
        if found == Some(true) {
            if !over {
                flight::count(tables, member, -1);
            }
            tables.remove_forward(&opening.key);
            tables.remove_reverse(&reverse);
        }
        opening.key = packet.key;
        opening.opened_ms = now;
    });
}

/// Takes a port: a free one, or one whose flow is gone. Makes it the source of `ends`; `Taken` if all that
/// were tried are.
#[inline(always)]
fn claim<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    round: u16,
    ends: &mut Ends,
    reverse: &NatReverse,
) -> Added {
    let (count, first_source) = if packet.is_v6() {
        (config.nat_v6, NAT_ADDRESSES)
    } else {
        (config.nat_v4, 0)
    };
    let seed = PORT_SEED.wrapping_mul(2 * round as u64 + 1);
    let mut random = hash::flow(&packet.key, config.flow_seed ^ seed);
    for _ in 0..ATTEMPTS {
        let source = first_source + hash::reduce(random << 16, u32::from(count));
        let Some(source) = tables.nat_source(source) else {
            return Added::Taken;
        };
        ends.source = source;
        let offset = hash::reduce(random, u32::from(config.nat_port_count));
        ends.source_port = config.nat_port_first.wrapping_add(offset as u16);
        let key = reverse_key(packet, ends);
        let mut added = tables.add_reverse(&key, reverse);
        if added as u8 == Added::Taken as u8
            && take_over(packet, tables, config, &key, reverse.last_ms)
        {
            added = tables.add_reverse(&key, reverse);
        }
        if added as u8 != Added::Taken as u8 {
            return added;
        }
        random = random
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(0x1234_5678_9abc_def1);
    }
    Added::Taken
}

/// Removes the flow that has a port, if it is gone.
#[inline(always)]
fn take_over<T: Tables>(
    packet: &Packet,
    tables: &T,
    config: &Config,
    key: &FlowKey,
    now: u32,
) -> bool {
    let gone = |state: u8, last_ms: u32| {
        let idle = age(now, last_ms);
        config.nat_timeouts.is_gone(packet.is_tcp(), state, idle)
    };
    let mut owner = FlowKey::default();
    let found = tables.with_reverse(key, |entry| {
        owner = entry.forward_key(key);
        gone(entry.state | entry.told, entry.last_ms)
    });
    if found != Some(true) {
        return false;
    }
    // The client may talk on, which only its own entry shows.
    let found = tables.with_forward(&owner, |entry| {
        if entry.reverse_key(&owner) != *key {
            Owner::Elsewhere
        } else if gone(entry.state | entry.told, entry.last_ms) {
            Owner::Gone
        } else {
            Owner::Talks
        }
    });
    match found {
        Some(Owner::Talks) => return false,
        Some(Owner::Gone) => tables.remove_forward(&owner),
        Some(Owner::Elsewhere) | None => {}
    }
    tables.remove_reverse(key);
    true
}

/// The flow that a port belonged to, by its client's entry.
#[derive(Clone, Copy)]
enum Owner {
    /// It has another port by now.
    Elsewhere,
    Gone,
    Talks,
}

/// What becomes of a packet for one of the addresses that `nat` uses.
#[inline(always)]
pub(crate) fn reply<T: Tables>(packet: &Packet, tables: &T, config: &Config) -> Verdict {
    let is_quote = packet.part as u8 == Part::Quote as u8;
    if is_quote || !packet.well_formed {
        let found = tables.with_reverse(&packet.key, |entry| {
            (entry.member, to_client(entry), entry.back)
        });
        return match found {
            Some((member, ends, back)) if is_quote => {
                tables.note(Step::Translated(member));
                Verdict::Return(member, ends, back)
            }
            Some(_) => Verdict::Drop(DropReason::Malformed),
            None => Verdict::Pass,
        };
    }
    let clock = Clock::of(packet, tables, config);
    let heard = heard(packet, nat_state::BACKEND_DONE) | nat_state::ANSWERED;
    let found = tables.with_reverse(&packet.key, |entry| {
        let before = entry.state;
        let state = before & !nat_state::RESET | heard;
        let mut seen = Replied {
            member: entry.member,
            ends: to_client(entry),
            back: entry.back,
            before,
            state,
            told: entry.told,
            key_member: entry.key_member,
            spoke: entry.heard_ns != 0,
            took: Took::NOTHING,
        };
        seen.took = clock.take(packet, config, entry, &mut seen.state);
        entry.last_ms = clock.now_ms;
        entry.state = seen.state;
        seen
    });
    let Some(seen) = found else {
        return Verdict::Pass;
    };
    tables.note(Step::Translated(seen.member));
    const OF_CLIENT: u8 =
        nat_state::ANSWERED | nat_state::BACKEND_DONE | nat_state::RESET | nat_state::TURN;
    if (seen.state ^ seen.before) & OF_CLIENT != 0 {
        let key = FlowKey {
            source: seen.ends.destination,
            destination: seen.ends.source,
            source_port: seen.ends.destination_port,
            destination_port: seen.ends.source_port,
            protocol: packet.key.protocol,
            family: packet.key.family,
            member: seen.key_member,
        };
        tables.with_forward(&key, |forward| forward.told = seen.state & OF_CLIENT);
        let flights = flights(seen.before | seen.told, seen.state | seen.told);
        flight::count(tables, seen.member, flights);
        if packet.is_tcp() && packet.part as u8 == Part::Packet as u8 {
            signal(packet, tables, &seen);
        }
    }
    if seen.took.measure != Took::NONE {
        tables.measure(seen.member, seen.took.measure, seen.took.ns);
    }
    Verdict::Return(seen.member, seen.ends, seen.back)
}

/// What is looked at of a backend's entry.
struct Replied {
    member: u16,
    ends: Ends,
    back: Back,
    /// What the backend had said before this packet, and what with it.
    before: u8,
    state: u8,
    /// What the client has said.
    told: u8,
    /// Whether the backend had sent a part of an answer before this packet.
    spoke: bool,
    /// What the key of the client's entry has as member.
    key_member: u16,
    took: Took,
}

/// Counts what a backend's packet says of the backend, the first time that it says it.
#[inline(always)]
fn signal<T: Tables>(packet: &Packet, tables: &T, seen: &Replied) {
    let first = seen.before & nat_state::ANSWERED == 0;
    if packet.tcp_flags & RST != 0 {
        // Who was reset, or told that nothing more comes, may close as it likes.
        let open = seen.told & (nat_state::CLIENT_DONE | nat_state::RESET) == 0
            && seen.before & (nat_state::BACKEND_DONE | nat_state::RESET) == 0;
        if first {
            tables.signal(seen.member, Signal::Refused);
        } else if open {
            tables.signal(seen.member, Signal::Reset);
        }
    } else if first {
        tables.signal(seen.member, Signal::Accepted);
    }
    let ends = (seen.state & !seen.before) & nat_state::BACKEND_DONE != 0;
    let asked = nat_state::is_waiting(seen.before, seen.told);
    if ends && asked && !seen.spoke && packet.payload() == 0 {
        tables.signal(seen.member, Signal::EndedEarly);
    }
}

/// A latency that a packet ends: numbers, for the verifier's sake.
#[derive(Clone, Copy)]
struct Took {
    /// A [`Measure`], or `NONE`.
    measure: u8,
    ns: u64,
}

impl Took {
    const NONE: u8 = u8::MAX;
    const NOTHING: Self = Self {
        measure: Self::NONE,
        ns: 0,
    };

    #[inline(always)]
    const fn new(measure: Measure, ns: u64) -> Self {
        Self {
            measure: measure as u8,
            ns,
        }
    }
}

/// The time of a backend's packet, and what it is of.
struct Clock {
    now_ms: u32,
    /// The fine clock, asked only for packets that latencies begin or end with; 0 otherwise.
    now_ns: u64,
}

impl Clock {
    #[inline(always)]
    fn of<T: Tables>(packet: &Packet, tables: &T, config: &Config) -> Self {
        let measured = is_measured(packet, config);
        let answers = measured && packet.payload() >= ANSWER;
        let accepts = measured && packet.tcp_flags & (SYN | ACK | RST) == SYN | ACK;
        let now_ns = if answers || accepts {
            tables.now_fine()
        } else {
            0
        };
        Self {
            now_ms: tables.now_ms(),
            now_ns,
        }
    }

    /// The latency that the packet ends, if any.
    #[inline(always)]
    fn take(
        &self,
        packet: &Packet,
        config: &Config,
        entry: &mut NatReverse,
        state: &mut u8,
    ) -> Took {
        if self.now_ns == 0 {
            return Took::NOTHING;
        }
        let since_asked = self.now_ns.saturating_sub(entry.asked_ns);
        if packet.tcp_flags & SYN != 0 {
            let first = entry.state & nat_state::ANSWERED == 0 && entry.asked_ns != 0;
            return if first {
                Took::new(Measure::Connect, since_asked)
            } else {
                Took::NOTHING
            };
        }
        let heard = entry.heard_ns;
        if nat_state::is_waiting(entry.state, entry.told) {
            *state ^= nat_state::TURN;
            *state &= !nat_state::LATER;
            entry.heard_ns = self.now_ns;
            return Took::new(Measure::FirstByte, since_asked);
        }
        if heard == 0 {
            // The backend speaks before it was asked.
            return Took::NOTHING;
        }
        entry.heard_ns = self.now_ns;
        let gap = self.now_ns.saturating_sub(heard);
        if gap < u64::from(config.burst_gap_us) << 10 {
            return Took::NOTHING;
        }
        if *state & nat_state::LATER == 0 {
            *state |= nat_state::LATER;
            return Took::new(Measure::SecondBurst, since_asked);
        }
        Took::new(Measure::Gap, gap)
    }
}

/// Ends a flow and frees its port, unless that has become another's.
#[inline(always)]
fn forget<T: Tables>(packet: &Packet, tables: &T, flow: &Seen) {
    if !nat_state::is_over(flow.state | flow.told) {
        flight::count(tables, flow.member, -1);
    }
    tables.remove_forward(&packet.key);
    let key = reverse_key(packet, &flow.ends);
    let is_ours = tables.with_reverse(&key, |reverse| reverse.forward_key(&key) == packet.key);
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
        member: 0,
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
