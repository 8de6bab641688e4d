//! Packets of backends.

use super::{
    flights, heard,
    latency::{Clock, Took},
    to_client,
    window::Segment,
};
use crate::{
    abi::{
        Back, Config, FlowKey, Member, NatForward, NatReverse, Sequence, Signal, age, member_flags,
        nat_flags, nat_state,
    },
    flight, nat_idle,
    quic::Look,
    tables::{Step, Tables},
    verdict::{DropReason, Ends, Verdict},
    wire::{ACK, ETHERNET_HEADER, FIN, Packet, Part, RST, SYN, VLAN_TAG},
};

/// State bits of the backend that the client's entry needs.
const OF_CLIENT: u8 =
    nat_state::ANSWERED | nat_state::BACKEND_DONE | nat_state::RESET | nat_state::TURN;

/// Ticks within which a backend has closed a connection at once: a server gives a client more time to ask.
const AT_ONCE: u32 = 1000;

/// Returns the verdict for a packet to one of the addresses that `nat` uses.
#[inline(always)]
pub(crate) fn reply<T: Tables, L: Look>(
    packet: &Packet,
    tables: &T,
    look: &L,
    config: &Config,
) -> Verdict {
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
    let least = u32::from(config.least_mtu);
    let watched = L::WHOLE && packet.part as u8 == Part::Packet as u8;
    if watched && least != 0 && packet.ip_len > least {
        return Verdict::Check;
    }
    let longest = nat_idle::worth_asking(packet, config);
    let epoch = config.routers_epoch;
    let clock = Clock::of(packet, tables, config);
    let found = tables.with_reverse(&packet.key, |entry| {
        let mut seen = Seen::of(entry);
        let member = tables.member(entry.member);
        seen.elsewhere = !member.is_none_or(|member| is_from(packet, member, config));
        let is_late = age(clock.now_ms, entry.last_ms) > longest;
        seen.check = watched & !seen.elsewhere & (is_late | (seen.back.epoch() != epoch));
        if seen.elsewhere | seen.check {
            return seen;
        }
        if packet.is_tcp() {
            let near = near(packet, look, entry);
            seen.judge = near.is_none();
            if let Some(segment) = near {
                entry.sequence.record(&segment);
            }
        }
        if !seen.judge {
            update(packet, config, &clock, entry, &mut seen);
        }
        seen
    });
    let Some(seen) = found else {
        return Verdict::Pass;
    };
    let mut seen = seen.merged(tables);
    if seen.elsewhere {
        return Verdict::Drop(DropReason::WrongInterface);
    }
    if seen.check {
        return Verdict::Check;
    }
    if seen.judge {
        if L::JUDGES {
            judge(packet, tables, look, config, &clock, &mut seen);
            // Not kept over all of that: stack is scarce.
            seen.back = tables
                .with_reverse(&packet.key, |entry| entry.back)
                .unwrap_or_default();
            seen = seen.merged(tables);
        } else if packet.part as u8 == Part::Packet as u8 {
            return Verdict::Judge;
        }
    }
    tables.note(Step::Translated(seen.member));
    if (seen.state ^ seen.before) & OF_CLIENT != 0 {
        tables.with_forward(&client_key(packet, &seen), |forward| {
            if is_of(packet, forward) {
                forward.told = seen.state & OF_CLIENT;
            }
        });
        let flights = flights(seen.before | seen.told, seen.state | seen.told);
        flight::count(tables, seen.member, flights);
        if L::JUDGES {
            signal(packet, tables, &seen);
        }
    }
    if seen.took.measure != Took::NONE {
        tables.measure(seen.member, seen.took.measure, seen.took.ns);
    }
    Verdict::Return(seen.member, seen.ends, seen.back)
}

/// Returns the segment of a backend, if it neither opens nor closes anything and the last one
/// proves it.
#[inline(always)]
fn near(packet: &Packet, look: &impl Look, entry: &NatReverse) -> Option<Segment> {
    if packet.is_control() {
        return None;
    }
    let segment = Segment::of(packet, look)?;
    segment.is_near(&entry.sequence, true).then_some(segment)
}

/// Returns whether a packet arrived where a member's answers do. XDP runs before the kernel's
/// reverse path filter.
#[inline(always)]
fn is_from(packet: &Packet, member: &Member, config: &Config) -> bool {
    let [one, other] = member.reply_interfaces;
    if one == 0 || member.flags & member_flags::RESOLVED == 0 {
        return true;
    }
    if packet.interface != one && packet.interface != other {
        return false;
    }
    if config.nat_flags & nat_flags::CHECKS_VLAN == 0 {
        return true;
    }
    let vlan = if packet.network == ETHERNET_HEADER {
        0
    } else {
        let tag = (u64::from_le(packet.tags) >> 16) as u16;
        u16::from_be(tag.to_le()) & 0x0fff
    };
    vlan == member.vlan && packet.network <= ETHERNET_HEADER + VLAN_TAG
}

/// Records the information of an acceptable packet.
#[inline(always)]
fn update(
    packet: &Packet,
    config: &Config,
    clock: &Clock,
    entry: &mut NatReverse,
    seen: &mut Seen,
) {
    let heard = heard(packet, nat_state::BACKEND_DONE) | nat_state::ANSWERED;
    seen.state = entry.state & !nat_state::RESET | heard;
    seen.took = clock.take(packet, config, entry, &mut seen.state);
    entry.last_ms = clock.now_ms;
    entry.state = seen.state;
}

/// Compares a segment with what the client has shown, and records it if it is acceptable.
#[inline(always)]
fn judge<T: Tables, L: Look>(
    packet: &Packet,
    tables: &T,
    look: &L,
    config: &Config,
    clock: &Clock,
    seen: &mut Seen,
) {
    let Some(segment) = Segment::of(packet, look) else {
        return;
    };
    if packet.is_control() && !look.is_verified() {
        return;
    }
    let key = client_key(packet, seen);
    let mut client = Sequence::default();
    let mut is_new = false;
    tables.with_forward(&key, |forward| {
        if is_of(packet, forward) {
            client = forward.sequence;
            is_new = age(clock.now_ms, forward.opened_ms) < AT_ONCE;
        }
    });
    let flags = packet.tcp_flags & (SYN | ACK | FIN | RST);
    let (mut begins, mut anew) = (false, false);
    tables.with_reverse(&packet.key, |entry| {
        let own = entry.sequence;
        let answered = entry.state & nat_state::ANSWERED != 0;
        let accepted = if flags & RST != 0 {
            segment.resets(&own, &client) || (!answered && segment.refuses(&client))
        } else if flags & SYN != 0 {
            anew = segment.accepts_other(&client);
            begins = anew || (!answered && segment.accepts(&client));
            begins
        } else if flags & FIN != 0 {
            segment.ends(&own, &client, true)
        } else if answered {
            segment.fits(&own, &client)
        } else {
            // The answer of a connection that the backend still has on this port (RFC 5961 section
            // 4): the client resets it by this number, and starts again.
            entry.sequence.acknowledged = segment.acknowledgment();
            false
        };
        if !accepted {
            return;
        }
        if flags & FIN != 0 && flags & RST == 0 {
            // A client far away has not asked yet when its connection is closed at once.
            let asks = (client.has_data() | is_new) && seen.told & nat_state::CLIENT_DONE == 0;
            seen.early = asks && !own.has_data() && packet.payload() == 0;
        }
        if anew {
            entry.state = 0;
            entry.told = 0;
            entry.heard_ns = 0;
            (seen.before, seen.told) = (0, 0);
        }
        update(packet, config, clock, entry, seen);
        if begins {
            entry.sequence = Sequence::of_syn(&segment);
        } else if flags & RST == 0 {
            entry.sequence.record(&segment);
        }
    });
    if begins {
        tables.with_forward(&key, |forward| {
            if !is_of(packet, forward) {
                return;
            }
            if anew {
                forward.sequence.initial = client.offered;
                forward.sequence.next = segment.acknowledgment();
                forward.state = 0;
                forward.opened_ms = clock.now_ms;
            }
            forward.sequence.acknowledged = segment.end();
        });
    }
}

/// Returns whether a client's entry belongs to the backend's packet: it may have another port by
/// now.
#[inline(always)]
fn is_of(packet: &Packet, forward: &NatForward) -> bool {
    forward.source_port == packet.key.destination_port && forward.source == packet.key.destination
}

/// Returns the key of the client's entry.
#[inline(always)]
fn client_key(packet: &Packet, seen: &Seen) -> FlowKey {
    seen.ends.reverse_key(&packet.key, seen.key_member)
}

/// Values copied from a backend's entry.
struct Seen {
    member: u16,
    ends: Ends,
    back: Back,
    /// State by the backend's packets, without and with this one.
    before: u8,
    state: u8,
    /// State by the client's packets.
    told: u8,
    /// Whether the packet arrived on an interface where the member is not.
    elsewhere: bool,
    /// Whether its flow must be checked first.
    check: bool,
    /// Whether the packet must be examined more closely.
    judge: bool,
    /// Whether the packet ends the flow before the backend has answered.
    early: bool,
    /// Member in the key of the client's entry.
    key_member: u16,
    took: Took,
}

impl Seen {
    #[inline(always)]
    fn of(entry: &NatReverse) -> Self {
        Self {
            member: entry.member,
            ends: to_client(entry),
            back: entry.back,
            before: entry.state,
            state: entry.state,
            told: entry.told,
            elsewhere: false,
            check: false,
            judge: false,
            early: false,
            key_member: entry.key_member,
            took: Took::NOTHING,
        }
    }

    /// Returns the same, with all paths that led to it merged.
    #[inline(always)]
    fn merged<T: Tables>(self, tables: &T) -> Self {
        if !T::MERGES_PATHS {
            return self;
        }
        let said = u32::from_ne_bytes([self.state, self.told, self.before, self.took.measure]);
        let said = tables.launder(u64::from(said)) as u32;
        let [state, told, before, measure] = said.to_ne_bytes();
        let flags = [self.elsewhere, self.check, self.judge, self.early];
        let [elsewhere, check, judge, early] = tables.merged(flags);
        Self {
            state,
            told,
            before,
            elsewhere,
            check,
            judge,
            early,
            took: Took {
                measure,
                ns: self.took.ns,
            },
            ..self
        }
    }
}

/// Counts the sign of trouble in a backend's acceptable segment, the first time it appears.
#[inline(always)]
fn signal<T: Tables>(packet: &Packet, tables: &T, seen: &Seen) {
    let first = seen.before & nat_state::ANSWERED == 0;
    if packet.tcp_flags & RST != 0 {
        // After a reset, or the client's FIN, the backend may close as it likes.
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
    if ends && seen.early {
        tables.signal(seen.member, Signal::EndedEarly);
    }
}
