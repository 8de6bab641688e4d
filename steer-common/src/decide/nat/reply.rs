//! Packets of backends.

use super::{
    super::{connection::QuicClassifier, in_flight},
    idle, in_flight_change,
    latency::{LatencySample, LatencyTracker},
    segment::Segment,
    state_bits, to_client,
};
use crate::{
    abi::{
        ClientNextHop, Config, FlowKey, Member, NatForward, NatReverse, Sequence, Signal, age,
        member_flags, nat_flags, nat_state,
    },
    tables::{Step, Tables},
    verdict::{DropReason, Endpoints, Verdict},
    wire::{ACK, ETHERNET_HEADER, FIN, Packet, PacketKind, RST, SYN, VLAN_TAG},
};

/// State bits of the backend that the client's entry needs.
const CLIENT_BITS: u8 =
    nat_state::ANSWERED | nat_state::BACKEND_DONE | nat_state::RESET | nat_state::REQUEST_PARITY;

/// Ticks within which the close of a connection counts as immediate: a server gives a client more time to send a
/// request.
const IMMEDIATE_CLOSE_TICKS: u32 = 1000;

/// Returns the verdict for a packet to one of the addresses that `nat` uses.
#[inline(always)]
pub(crate) fn reply<T: Tables, L: QuicClassifier>(
    packet: &Packet,
    tables: &T,
    classifier: &L,
    config: &Config,
) -> Verdict {
    let is_icmp_error = packet.kind as u8 == PacketKind::IcmpError as u8;
    if is_icmp_error || !packet.well_formed {
        let found = tables.with_reverse(&packet.key, |entry| {
            (entry.member, to_client(entry), entry.client_hop)
        });
        return match found {
            Some((member, ends, back)) if is_icmp_error => {
                tables.trace_step(Step::NatHit(member));
                Verdict::NatReply(member, ends, back)
            }
            Some(_) => Verdict::Drop(DropReason::Malformed),
            None => Verdict::Pass,
        };
    }
    let least = u32::from(config.min_mtu);
    let watched = L::IS_WHOLE && packet.kind as u8 == PacketKind::Whole as u8;
    if watched && least != 0 && packet.ip_len > least {
        return Verdict::NatRevalidate;
    }
    let longest = idle::check_after(packet, config);
    let epoch = config.routers_epoch;
    let clock = LatencyTracker::start(packet, tables, config);
    let found = tables.with_reverse(&packet.key, |entry| {
        let mut seen = ReverseHit::of_entry(entry);
        let member = tables.member(entry.member);
        seen.wrong_interface = !member.is_none_or(|member| is_from_member(packet, member, config));
        let is_late = age(clock.now_ticks, entry.last_ticks) > longest;
        seen.revalidate =
            watched & !seen.wrong_interface & (is_late | (seen.client_hop.epoch() != epoch));
        if seen.wrong_interface | seen.revalidate {
            return seen;
        }
        if packet.is_tcp() {
            let near = acceptable_segment(packet, classifier, entry);
            seen.validate = near.is_none();
            if let Some(segment) = near {
                entry.sequence.record(&segment);
            }
        }
        if !seen.validate {
            update_state(packet, config, &clock, entry, &mut seen);
        }
        seen
    });
    let Some(seen) = found else {
        return Verdict::Pass;
    };
    let mut seen = seen.merged(tables);
    if seen.wrong_interface {
        return Verdict::Drop(DropReason::WrongInterface);
    }
    if seen.revalidate {
        return Verdict::NatRevalidate;
    }
    if seen.validate {
        if L::VALIDATES_TCP {
            validate_segment(packet, tables, classifier, config, &clock, &mut seen);
            // Not kept over all of that: stack is scarce.
            seen.client_hop = tables
                .with_reverse(&packet.key, |entry| entry.client_hop)
                .unwrap_or_default();
            seen = seen.merged(tables);
        } else if packet.kind as u8 == PacketKind::Whole as u8 {
            return Verdict::NatTcp;
        }
    }
    tables.trace_step(Step::NatHit(seen.member));
    if (seen.state ^ seen.old_state) & CLIENT_BITS != 0 {
        tables.with_forward(&client_key(packet, &seen), |forward| {
            if belongs_to(packet, forward) {
                forward.peer_state = seen.state & CLIENT_BITS;
            }
        });
        let flights = in_flight_change(
            seen.old_state | seen.peer_state,
            seen.state | seen.peer_state,
        );
        in_flight::adjust(tables, seen.member, flights);
        if L::VALIDATES_TCP {
            signal(packet, tables, &seen);
        }
    }
    if seen.latency.measure != LatencySample::NONE {
        tables.record_latency(seen.member, seen.latency.measure, seen.latency.ns);
    }
    Verdict::NatReply(seen.member, seen.ends, seen.client_hop)
}

/// Returns the segment of a backend, if it neither opens nor closes anything and the last one
/// proves it.
#[inline(always)]
fn acceptable_segment(
    packet: &Packet,
    classifier: &impl QuicClassifier,
    entry: &NatReverse,
) -> Option<Segment> {
    if packet.is_control() {
        return None;
    }
    let segment = Segment::of_packet(packet, classifier)?;
    segment.is_near(&entry.sequence, true).then_some(segment)
}

/// Returns whether a packet arrived where a member's answers do. XDP runs before the kernel's
/// reverse path filter.
#[inline(always)]
fn is_from_member(packet: &Packet, member: &Member, config: &Config) -> bool {
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
fn update_state(
    packet: &Packet,
    config: &Config,
    clock: &LatencyTracker,
    entry: &mut NatReverse,
    seen: &mut ReverseHit,
) {
    let heard = state_bits(packet, nat_state::BACKEND_DONE) | nat_state::ANSWERED;
    seen.state = entry.state & !nat_state::RESET | heard;
    seen.latency = clock.sample(packet, config, entry, &mut seen.state);
    entry.last_ticks = clock.now_ticks;
    entry.state = seen.state;
}

/// Compares a segment with what the client has shown, and records it if it is acceptable.
#[inline(always)]
fn validate_segment<T: Tables, L: QuicClassifier>(
    packet: &Packet,
    tables: &T,
    classifier: &L,
    config: &Config,
    clock: &LatencyTracker,
    seen: &mut ReverseHit,
) {
    let Some(segment) = Segment::of_packet(packet, classifier) else {
        return;
    };
    if packet.is_control() && !classifier.is_checksum_valid() {
        return;
    }
    let key = client_key(packet, seen);
    let mut client = Sequence::default();
    let mut is_new = false;
    tables.with_forward(&key, |forward| {
        if belongs_to(packet, forward) {
            client = forward.sequence;
            is_new = age(clock.now_ticks, forward.opened_ticks) < IMMEDIATE_CLOSE_TICKS;
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
            let asks =
                (client.has_data() | is_new) && seen.peer_state & nat_state::CLIENT_DONE == 0;
            seen.ends_early = asks && !own.has_data() && packet.payload() == 0;
        }
        if anew {
            entry.state = 0;
            entry.peer_state = 0;
            entry.last_answer_ns = 0;
            (seen.old_state, seen.peer_state) = (0, 0);
        }
        update_state(packet, config, clock, entry, seen);
        if begins {
            entry.sequence = Sequence::of_syn(&segment);
        } else if flags & RST == 0 {
            entry.sequence.record(&segment);
        }
    });
    if begins {
        tables.with_forward(&key, |forward| {
            if !belongs_to(packet, forward) {
                return;
            }
            if anew {
                forward.sequence.initial = client.offered;
                forward.sequence.next = segment.acknowledgment();
                forward.state = 0;
                forward.opened_ticks = clock.now_ticks;
            }
            forward.sequence.acknowledged = segment.end();
        });
    }
}

/// Returns whether a client's entry belongs to the backend's packet: it may have another port by
/// now.
#[inline(always)]
fn belongs_to(packet: &Packet, forward: &NatForward) -> bool {
    forward.source_port == packet.key.destination_port && forward.source == packet.key.destination
}

/// Returns the key of the client's entry.
#[inline(always)]
fn client_key(packet: &Packet, seen: &ReverseHit) -> FlowKey {
    seen.ends.reverse_key(&packet.key, seen.key_member)
}

/// Values copied from a backend's entry.
struct ReverseHit {
    member: u16,
    ends: Endpoints,
    client_hop: ClientNextHop,
    /// State by the backend's packets, without and with this one.
    old_state: u8,
    state: u8,
    /// State by the client's packets.
    peer_state: u8,
    /// Whether the packet arrived on an interface where the member is not.
    wrong_interface: bool,
    /// Whether its flow must be checked first.
    revalidate: bool,
    /// Whether the packet must be examined more closely.
    validate: bool,
    /// Whether the packet ends the flow before the backend has answered.
    ends_early: bool,
    /// Member in the key of the client's entry.
    key_member: u16,
    latency: LatencySample,
}

impl ReverseHit {
    #[inline(always)]
    fn of_entry(entry: &NatReverse) -> Self {
        Self {
            member: entry.member,
            ends: to_client(entry),
            client_hop: entry.client_hop,
            old_state: entry.state,
            state: entry.state,
            peer_state: entry.peer_state,
            wrong_interface: false,
            revalidate: false,
            validate: false,
            ends_early: false,
            key_member: entry.key_member,
            latency: LatencySample::EMPTY,
        }
    }

    /// Returns the same, with all paths that led to it merged.
    #[inline(always)]
    fn merged<T: Tables>(self, tables: &T) -> Self {
        if !T::MERGES_PATHS {
            return self;
        }
        let packed = u32::from_ne_bytes([
            self.state,
            self.peer_state,
            self.old_state,
            self.latency.measure,
        ]);
        let packed = tables.launder(u64::from(packed)) as u32;
        let [state, peer_state, before, measure] = packed.to_ne_bytes();
        let flags = [
            self.wrong_interface,
            self.revalidate,
            self.validate,
            self.ends_early,
        ];
        let [elsewhere, check, judge, early] = tables.merged(flags);
        Self {
            state,
            peer_state,
            old_state: before,
            wrong_interface: elsewhere,
            revalidate: check,
            validate: judge,
            ends_early: early,
            latency: LatencySample {
                measure,
                ns: self.latency.ns,
            },
            ..self
        }
    }
}

/// Counts the sign of trouble in a backend's acceptable segment, the first time it appears.
#[inline(always)]
fn signal<T: Tables>(packet: &Packet, tables: &T, seen: &ReverseHit) {
    let first = seen.old_state & nat_state::ANSWERED == 0;
    if packet.tcp_flags & RST != 0 {
        // After a reset, or the client's FIN, the backend may close as it likes.
        let open = seen.peer_state & (nat_state::CLIENT_DONE | nat_state::RESET) == 0
            && seen.old_state & (nat_state::BACKEND_DONE | nat_state::RESET) == 0;
        if first {
            tables.count_signal(seen.member, Signal::Refused);
        } else if open {
            tables.count_signal(seen.member, Signal::Reset);
        }
    } else if first {
        tables.count_signal(seen.member, Signal::Accepted);
    }
    let ends = (seen.state & !seen.old_state) & nat_state::BACKEND_DONE != 0;
    if ends && seen.ends_early {
        tables.count_signal(seen.member, Signal::EndedEarly);
    }
}
