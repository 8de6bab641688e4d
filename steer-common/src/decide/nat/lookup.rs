//! Client packets of flows in the nat table.

use super::{
    super::{
        connection::QuicClassifier,
        eligibility::{may_serve, refuse_open_flow},
        in_flight,
    },
    MIN_REQUEST_BYTES,
    client_hop::{self, client_next_hop},
    idle, in_flight_change, is_measured, reverse_key,
    segment::Segment,
    state_bits, to_member,
};
use crate::{
    abi::{Config, NatForward, Sequence, Service, Signal, age, begins, nat_state},
    tables::{Step, Tables},
    verdict::{DropReason, Endpoints, Target, Verdict},
    wire::{FIN, Packet, PacketKind, RST, SYN},
};

pub(crate) enum Lookup {
    Decided(Verdict),
    /// Not in the table, or no longer; the member did not answer.
    Unknown {
        avoid: u16,
    },
}

/// Looks a client's packet up in the nat table.
#[inline(always)]
pub(crate) fn lookup<T: Tables, L: QuicClassifier>(
    packet: &Packet,
    tables: &T,
    classifier: &L,
    config: &Config,
    service: &Service,
) -> Lookup {
    let now = tables.now_ticks();
    let opens = packet.opens_tcp();
    let is_icmp_error = packet.kind as u8 == PacketKind::IcmpError as u8;
    let news = ClientUpdate {
        now,
        state_bits: state_bits(packet, nat_state::CLIENT_DONE),
        is_request: is_measured(packet, config) && packet.payload() >= MIN_REQUEST_BYTES,
    };
    let back = client_next_hop(packet, config);
    // Values outside of closures are cheaper here: a closure that is not inlined needs stack that
    // is not available.
    let watched = L::IS_WHOLE && packet.kind as u8 == PacketKind::Whole as u8;
    let longest = idle::check_after(packet, config);
    let found = tables.with_forward(&packet.key, |entry| {
        let mut seen = ForwardHit::of_entry(entry);
        let is_late = age(now, entry.last_ticks) > longest;
        let moved = !opens & !client_hop::is_same(&entry.client_hop, &back);
        seen.revalidate = watched & !seen.opens & (is_late | moved);
        if seen.opens {
            entry.state = seen.old_state & !nat_state::NEW;
        } else if !is_icmp_error && !seen.revalidate {
            if !packet.is_tcp() {
                news.update(entry, &mut seen);
            } else if let Some(segment) = acceptable_segment(packet, classifier, entry) {
                entry.sequence.record(&segment);
                news.update(entry, &mut seen);
            } else {
                seen.validate = true;
            }
        }
        seen
    });
    let Some(entry) = found else {
        return Lookup::Unknown { avoid: 0 };
    };
    let mut entry = entry.merged(tables);
    if entry.revalidate {
        return Lookup::Decided(Verdict::NatRevalidate);
    }
    if entry.validate {
        if L::VALIDATES_TCP {
            if opens {
                if !classifier.is_checksum_valid() {
                    return Lookup::Decided(Verdict::Drop(DropReason::BadChecksum));
                }
                if let Some(known) = repeated_syn(packet, tables, classifier, config, &news, &entry)
                {
                    return known;
                }
            } else {
                validate_segment(packet, tables, classifier, &news, &mut entry);
                entry = entry.merged(tables);
            }
        } else if packet.kind as u8 == PacketKind::Whole as u8 {
            return Lookup::Decided(Verdict::NatTcp);
        }
    }
    tables.trace_step(Step::NatHit(entry.member));
    let flights = in_flight_change(
        entry.old_state | entry.peer_state,
        entry.state | entry.peer_state,
    );
    in_flight::adjust(tables, entry.member, flights);
    let usable = tables.member(entry.member).filter(|m| m.keeps_open());
    let Some(member) = usable else {
        tables.trace_step(Step::Unavailable(entry.member));
        if is_icmp_error {
            return Lookup::Decided(Verdict::Drop(DropReason::MemberDown));
        }
        remove(packet, tables, &entry);
        if packet.is_tcp() && !opens {
            return Lookup::Decided(Verdict::of_refusal(refuse_open_flow(
                packet,
                service,
                DropReason::MemberDown,
            )));
        }
        return Lookup::Unknown { avoid: 0 };
    };
    if !may_serve(service, member) {
        tables.trace_step(Step::OutsideRegion(entry.member));
        return Lookup::Decided(Verdict::Drop(DropReason::Residency));
    }
    if entry.changed {
        // The backend's own packets do not show it.
        let asked_ns = if entry.starts_request {
            tables.now_precise_ns()
        } else {
            0
        };
        tables.with_reverse(&reverse_key(packet, &entry.ends), |e| {
            if asked_ns != 0 {
                e.request_ns = asked_ns;
            }
            e.peer_state = entry.state;
        });
    }
    let target = Target {
        id: entry.member,
        mode: member.mode,
        begins: (entry.opens as u8 * begins::FLOW) | (entry.starts_request as u8 * begins::REQUEST),
    };
    Lookup::Decided(Verdict::NatForward(target, entry.ends))
}

/// Information in a client's packet.
struct ClientUpdate {
    now: u32,
    state_bits: u8,
    /// Whether it is a request, if none is open.
    is_request: bool,
}

impl ClientUpdate {
    /// Records the information of an acceptable packet.
    #[inline(always)]
    fn update(&self, entry: &mut NatForward, seen: &mut ForwardHit) {
        let before = entry.state;
        let mut state = before & !nat_state::RESET | self.state_bits;
        if entry.peer_state & nat_state::ANSWERED != 0 {
            state |= nat_state::ASSURED;
        }
        if self.is_request && !nat_state::awaits_answer(before, entry.peer_state) {
            state ^= nat_state::REQUEST_PARITY;
            seen.starts_request = true;
        }
        seen.state = state;
        seen.changed = state != before;
        entry.last_ticks = self.now;
        entry.state = state;
    }
}

/// Returns the segment of a client, if it neither opens nor closes anything and the last one proves
/// it.
#[inline(always)]
fn acceptable_segment(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    entry: &NatForward,
) -> Option<Segment> {
    if packet.is_control() {
        return None;
    }
    let segment = Segment::of_packet(packet, classifier)?;
    let answered = entry.peer_state & nat_state::ANSWERED != 0;
    segment
        .is_near(&entry.sequence, answered)
        .then_some(segment)
}

/// Decides about a SYN on an existing flow. It never changes an open one; only the backend's answer
/// may.
#[inline(always)]
fn repeated_syn<T: Tables>(
    packet: &Packet,
    tables: &T,
    classifier: &impl QuicClassifier,
    config: &Config,
    news: &ClientUpdate,
    entry: &ForwardHit,
) -> Option<Lookup> {
    if nat_state::is_closed(entry.state | entry.peer_state) {
        remove_forward(packet, tables, entry);
        return Some(Lookup::Unknown { avoid: 0 });
    }
    let number = Segment::of_packet(packet, classifier)?.sequence();
    let same = tables.with_forward(&packet.key, |e| {
        let same = e.sequence.initial == number;
        if same {
            e.last_ticks = news.now;
        } else {
            e.sequence.offered = number;
        }
        same
    });
    if same != Some(true) {
        return None;
    }
    let unanswered = entry.peer_state & nat_state::ANSWERED == 0;
    if unanswered && age(news.now, entry.opened_ticks) >= config.nat_retry_ticks {
        tables.trace_step(Step::Retry(entry.member));
        tables.count_signal(entry.member, Signal::Unanswered);
        remove(packet, tables, entry);
        return Some(Lookup::Unknown {
            avoid: entry.member,
        });
    }
    None
}

/// Compares a segment with what the backend has shown, and records it if it is acceptable.
#[inline(always)]
fn validate_segment<T: Tables, L: QuicClassifier>(
    packet: &Packet,
    tables: &T,
    classifier: &L,
    news: &ClientUpdate,
    seen: &mut ForwardHit,
) {
    let peer = tables.with_reverse(&reverse_key(packet, &seen.ends), |e| e.sequence);
    let peer = peer.unwrap_or(Sequence::default());
    let Some(segment) = Segment::of_packet(packet, classifier) else {
        return;
    };
    if packet.is_control() && !classifier.is_checksum_valid() {
        return;
    }
    tables.with_forward(&packet.key, |entry| {
        let own = entry.sequence;
        let answered = entry.peer_state & nat_state::ANSWERED != 0;
        let accepted = if packet.tcp_flags & RST != 0 {
            segment.resets(&own, &peer)
        } else if packet.tcp_flags & SYN != 0 {
            false
        } else if packet.tcp_flags & FIN != 0 {
            segment.ends(&own, &peer, answered)
        } else {
            segment.fits(&own, &peer)
        };
        if accepted {
            if packet.tcp_flags & RST == 0 {
                entry.sequence.record(&segment);
            }
            news.update(entry, seen);
        }
    });
}

/// Values copied from an entry. A complete copy would not fit on the kernel's stack.
struct ForwardHit {
    ends: Endpoints,
    opened_ticks: u32,
    member: u16,
    /// State by the client's packets, including this one.
    state: u8,
    peer_state: u8,
    /// Whether the packet is the one that opened the flow.
    opens: bool,
    /// Whether the packet starts a request.
    starts_request: bool,
    /// Whether the packet contains anything new.
    changed: bool,
    /// Whether its flow must be checked first.
    revalidate: bool,
    /// Whether the packet must be examined more closely.
    validate: bool,
    /// State by the client's packets, without this one.
    old_state: u8,
}

impl ForwardHit {
    #[inline(always)]
    fn of_entry(entry: &NatForward) -> Self {
        Self {
            ends: to_member(entry),
            opened_ticks: entry.opened_ticks,
            member: entry.member,
            state: entry.state,
            peer_state: entry.peer_state,
            opens: entry.state & nat_state::NEW != 0,
            starts_request: false,
            changed: false,
            revalidate: false,
            validate: false,
            old_state: entry.state,
        }
    }

    /// Returns the same, with all paths that led to it merged.
    #[inline(always)]
    fn merged<T: Tables>(self, tables: &T) -> Self {
        if !T::MERGES_PATHS {
            return self;
        }
        let packed = u32::from_ne_bytes([self.state, self.peer_state, self.old_state, 0]);
        let packed = tables.launder(u64::from(packed)) as u32;
        let [state, peer_state, before, _] = packed.to_ne_bytes();
        let flags = [
            self.opens,
            self.starts_request,
            self.changed,
            self.revalidate,
            self.validate,
        ];
        let [fresh, asks, news, check, judge] = tables.merged(flags);
        Self {
            state,
            peer_state,
            old_state: before,
            opens: fresh,
            starts_request: asks,
            changed: news,
            revalidate: check,
            validate: judge,
            ..self
        }
    }
}

/// Ends a flow and frees its port, unless that belongs to another one.
#[inline(always)]
fn remove<T: Tables>(packet: &Packet, tables: &T, flow: &ForwardHit) {
    let key = reverse_key(packet, &flow.ends);
    let is_ours = tables.with_reverse(&key, |reverse| reverse.forward_key(&key) == packet.key);
    remove_forward(packet, tables, flow);
    if is_ours == Some(true) {
        tables.remove_reverse(&key);
    }
}

/// Ends a flow. Its port rests until it may be reclaimed: the backend may be in TIME_WAIT.
#[inline(always)]
fn remove_forward<T: Tables>(packet: &Packet, tables: &T, flow: &ForwardHit) {
    if !nat_state::is_closed(flow.state | flow.peer_state) {
        in_flight::adjust(tables, flow.member, -1);
    }
    tables.remove_forward(&packet.key);
}
