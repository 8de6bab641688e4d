//! Client packets of flows in the nat table.

use super::{REQUEST, flights, heard, is_measured, reverse_key, to_member, window::Segment};
use crate::{
    abi::{Config, NatForward, Sequence, Service, Signal, age, begins, nat_state},
    choose::{lost, may_serve},
    flight, nat_idle,
    nat_way::{self, way_back},
    quic::Look,
    tables::{Step, Tables},
    verdict::{DropReason, Ends, Target, Verdict},
    wire::{FIN, Packet, Part, RST, SYN},
};

pub(crate) enum Known {
    Decided(Verdict),
    /// Not in the table, or no longer; the member did not answer.
    Unknown {
        avoid: u16,
    },
}

/// Looks a client's packet up in the nat table.
#[inline(always)]
pub(crate) fn known<T: Tables, L: Look>(
    packet: &Packet,
    tables: &T,
    look: &L,
    config: &Config,
    service: &Service,
) -> Known {
    let now = tables.now_ms();
    let opens = packet.opens_tcp();
    let is_quote = packet.part as u8 == Part::Quote as u8;
    let news = News {
        now,
        heard: heard(packet, nat_state::CLIENT_DONE),
        asks: is_measured(packet, config) && packet.payload() >= REQUEST,
    };
    let back = way_back(packet, config);
    // Values outside of closures are cheaper here: a closure that is not inlined needs stack that
    // is not available.
    let watched = L::WHOLE && packet.part as u8 == Part::Packet as u8;
    let longest = nat_idle::worth_asking(packet, config);
    let found = tables.with_forward(&packet.key, |entry| {
        let mut seen = Seen::of(entry);
        let is_late = age(now, entry.last_ms) > longest;
        let moved = !opens & !nat_way::is_same(&entry.back, &back);
        seen.check = watched & !seen.fresh & (is_late | moved);
        if seen.fresh {
            entry.state = seen.before & !nat_state::FRESH;
        } else if !is_quote && !seen.check {
            if !packet.is_tcp() {
                news.update(entry, &mut seen);
            } else if let Some(segment) = near(packet, look, entry) {
                entry.sequence.record(&segment);
                news.update(entry, &mut seen);
            } else {
                seen.judge = true;
            }
        }
        seen
    });
    let Some(entry) = found else {
        return Known::Unknown { avoid: 0 };
    };
    let mut entry = entry.merged(tables);
    if entry.check {
        return Known::Decided(Verdict::Check);
    }
    if entry.judge {
        if L::JUDGES {
            if opens {
                if !look.is_verified() {
                    return Known::Decided(Verdict::Drop(DropReason::BadChecksum));
                }
                if let Some(known) = repeated(packet, tables, look, config, &news, &entry) {
                    return known;
                }
            } else {
                judge(packet, tables, look, &news, &mut entry);
                entry = entry.merged(tables);
            }
        } else if packet.part as u8 == Part::Packet as u8 {
            return Known::Decided(Verdict::Judge);
        }
    }
    tables.note(Step::Translated(entry.member));
    let flights = flights(entry.before | entry.told, entry.state | entry.told);
    flight::count(tables, entry.member, flights);
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
        // The backend's own packets do not show it.
        let asked_ns = if entry.asks { tables.now_fine() } else { 0 };
        tables.with_reverse(&reverse_key(packet, &entry.ends), |e| {
            if asked_ns != 0 {
                e.asked_ns = asked_ns;
            }
            e.told = entry.state;
        });
    }
    let target = Target {
        id: entry.member,
        mode: member.mode,
        begins: (entry.fresh as u8 * begins::FLOW) | (entry.asks as u8 * begins::REQUEST),
    };
    Known::Decided(Verdict::Forward(target, entry.ends))
}

/// Information in a client's packet.
struct News {
    now: u32,
    heard: u8,
    /// Whether it is a request, if none is open.
    asks: bool,
}

impl News {
    /// Records the information of an acceptable packet.
    #[inline(always)]
    fn update(&self, entry: &mut NatForward, seen: &mut Seen) {
        let before = entry.state;
        let mut state = before & !nat_state::RESET | self.heard;
        if entry.told & nat_state::ANSWERED != 0 {
            state |= nat_state::SETTLED;
        }
        if self.asks && !nat_state::is_waiting(before, entry.told) {
            state ^= nat_state::TURN;
            seen.asks = true;
        }
        seen.state = state;
        seen.news = state != before;
        entry.last_ms = self.now;
        entry.state = state;
    }
}

/// Returns the segment of a client, if it neither opens nor closes anything and the last one proves
/// it.
#[inline(always)]
fn near(packet: &Packet, look: &impl Look, entry: &NatForward) -> Option<Segment> {
    if packet.is_control() {
        return None;
    }
    let segment = Segment::of(packet, look)?;
    let answered = entry.told & nat_state::ANSWERED != 0;
    segment
        .is_near(&entry.sequence, answered)
        .then_some(segment)
}

/// Decides about a SYN on an existing flow. It never changes an open one; only the backend's answer
/// may.
#[inline(always)]
fn repeated<T: Tables>(
    packet: &Packet,
    tables: &T,
    look: &impl Look,
    config: &Config,
    news: &News,
    entry: &Seen,
) -> Option<Known> {
    if nat_state::is_over(entry.state | entry.told) {
        leave(packet, tables, entry);
        return Some(Known::Unknown { avoid: 0 });
    }
    let number = Segment::of(packet, look)?.sequence();
    let same = tables.with_forward(&packet.key, |e| {
        let same = e.sequence.initial == number;
        if same {
            e.last_ms = news.now;
        } else {
            e.sequence.offered = number;
        }
        same
    });
    if same != Some(true) {
        return None;
    }
    let unanswered = entry.told & nat_state::ANSWERED == 0;
    if unanswered && age(news.now, entry.opened_ms) >= config.nat_retry_ms {
        tables.note(Step::Retry(entry.member));
        tables.signal(entry.member, Signal::Unanswered);
        forget(packet, tables, entry);
        return Some(Known::Unknown {
            avoid: entry.member,
        });
    }
    None
}

/// Compares a segment with what the backend has shown, and records it if it is acceptable.
#[inline(always)]
fn judge<T: Tables, L: Look>(packet: &Packet, tables: &T, look: &L, news: &News, seen: &mut Seen) {
    let peer = tables.with_reverse(&reverse_key(packet, &seen.ends), |e| e.sequence);
    let peer = peer.unwrap_or(Sequence::default());
    let Some(segment) = Segment::of(packet, look) else {
        return;
    };
    if packet.is_control() && !look.is_verified() {
        return;
    }
    tables.with_forward(&packet.key, |entry| {
        let own = entry.sequence;
        let answered = entry.told & nat_state::ANSWERED != 0;
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
struct Seen {
    ends: Ends,
    opened_ms: u32,
    member: u16,
    /// State by the client's packets, including this one.
    state: u8,
    told: u8,
    /// Whether the packet is the one that opened the flow.
    fresh: bool,
    /// Whether the packet starts a request.
    asks: bool,
    /// Whether the packet contains anything new.
    news: bool,
    /// Whether its flow must be checked first.
    check: bool,
    /// Whether the packet must be examined more closely.
    judge: bool,
    /// State by the client's packets, without this one.
    before: u8,
}

impl Seen {
    #[inline(always)]
    fn of(entry: &NatForward) -> Self {
        Self {
            ends: to_member(entry),
            opened_ms: entry.opened_ms,
            member: entry.member,
            state: entry.state,
            told: entry.told,
            fresh: entry.state & nat_state::FRESH != 0,
            asks: false,
            news: false,
            check: false,
            judge: false,
            before: entry.state,
        }
    }

    /// Returns the same, with all paths that led to it merged.
    #[inline(always)]
    fn merged<T: Tables>(self, tables: &T) -> Self {
        if !T::MERGES_PATHS {
            return self;
        }
        let said = u32::from_ne_bytes([self.state, self.told, self.before, 0]);
        let said = tables.launder(u64::from(said)) as u32;
        let [state, told, before, _] = said.to_ne_bytes();
        let flags = [self.fresh, self.asks, self.news, self.check, self.judge];
        let [fresh, asks, news, check, judge] = tables.merged(flags);
        Self {
            state,
            told,
            before,
            fresh,
            asks,
            news,
            check,
            judge,
            ..self
        }
    }
}

/// Ends a flow and frees its port, unless that belongs to another one.
#[inline(always)]
fn forget<T: Tables>(packet: &Packet, tables: &T, flow: &Seen) {
    let key = reverse_key(packet, &flow.ends);
    let is_ours = tables.with_reverse(&key, |reverse| reverse.forward_key(&key) == packet.key);
    leave(packet, tables, flow);
    if is_ours == Some(true) {
        tables.remove_reverse(&key);
    }
}

/// Ends a flow. Its port rests until it may be reclaimed: the backend may be in TIME_WAIT.
#[inline(always)]
fn leave<T: Tables>(packet: &Packet, tables: &T, flow: &Seen) {
    if !nat_state::is_over(flow.state | flow.told) {
        flight::count(tables, flow.member, -1);
    }
    tables.remove_forward(&packet.key);
}
