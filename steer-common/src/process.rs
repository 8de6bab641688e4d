//! Processing of a packet: parse, decide, rewrite, count.

use crate::{
    abi::{
        ClientNextHop, FIRST_FRAGMENT, FragmentFate, GENERAL, ICMP_ERROR, LATER_FRAGMENT, MAIN,
        MARTIAN, Member, Mode, NAT_CREATE, NAT_QUIC, NAT_RETRY, NAT_REVALIDATE, NAT_TCP, QUIC,
        QUIC_DECRYPT, RESET, TIME_EXCEEDED, TOO_BIG, V6, VERIFY_CHECKSUM,
    },
    answer::answer_reset,
    decide::{decide, decide_for},
    frame::Frame,
    martian::{is_martian, martian},
    nat_check::nat_revalidate,
    own::is_for_node,
    quic::{Deferred, Inline, decrypt, nat_quic, quic},
    rare::{first_fragment, icmp_error, later_fragment, nat_create, too_big},
    rewrite,
    segment::{self, nat_retry, nat_tcp, verify_checksum},
    tables::{NextHop, Tables},
    time_exceeded::time_exceeded,
    verdict::{DropReason, Endpoints, Target, Verdict},
    wire::{Packet, PacketKind, is_v6, parse, parse_v4, parse_v6},
};

/// Final action for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Passed to the kernel's stack, unchanged.
    Pass,
    /// Dropped.
    Drop(DropReason),
    /// Sent on the interface with this index.
    Transmit(u32),
}

/// An [`Action`] as one word.
///
/// For an enum with payloads the compiler leaves parts undefined in registers that held pointers
/// before, and the verifier refuses to read those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome(u64);

impl Outcome {
    const PASS: u64 = 2 << 32;
    const DROP: u64 = 1 << 32;
    const TAIL_CALL: u64 = 4 << 32;

    /// Outcome of passing the packet to the kernel.
    pub const PASSED: Self = Self(Self::PASS);

    #[inline(always)]
    pub(crate) const fn drop(reason: DropReason) -> Self {
        Self(Self::DROP | reason as u64)
    }

    #[inline(always)]
    const fn transmit(interface: u32) -> Self {
        Self(interface as u64)
    }

    /// Creates a tail call to another program: its index in [`PROGRAMS`](crate::abi::PROGRAMS), and
    /// its argument.
    #[inline(always)]
    pub(crate) const fn tail_call(program: u32, argument: u16) -> Self {
        Self(Self::TAIL_CALL | (program << 16) as u64 | argument as u64)
    }

    #[inline(always)]
    pub(crate) const fn from_rewrite(done: Result<(), DropReason>, interface: u32) -> Self {
        match done {
            Ok(()) => Self::transmit(interface),
            Err(reason) => Self::drop(reason),
        }
    }

    /// Returns whether the packet is sent on the interface [`Self::word`].
    #[inline(always)]
    pub const fn is_transmitted(self) -> bool {
        self.0 >> 32 == 0
    }

    /// Returns whether the packet is passed to the kernel.
    #[inline(always)]
    pub const fn is_pass(self) -> bool {
        self.0 & Self::PASS != 0
    }

    /// Returns whether the packet is dropped; [`Self::word`] is the number of the reason then.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.0 & Self::DROP != 0
    }

    /// Returns whether [`Self::program`] is tail-called.
    #[inline(always)]
    pub const fn is_tail_call(self) -> bool {
        self.0 & Self::TAIL_CALL != 0
    }

    /// Returns the index of the program to tail-call in [`PROGRAMS`](crate::abi::PROGRAMS).
    #[inline(always)]
    pub const fn program(self) -> u32 {
        self.word() >> 16
    }

    /// Returns the argument of the tail-called program.
    #[inline(always)]
    pub const fn argument(self) -> u16 {
        self.0 as u16
    }

    /// Returns the number of the drop reason, or the outgoing interface.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0 as u32
    }

    /// Returns the action that it represents.
    pub fn action(self) -> Action {
        if self.is_pass() {
            return Action::Pass;
        }
        if !self.is_drop() {
            return Action::Transmit(self.word());
        }
        let reason = DropReason::ALL
            .into_iter()
            .find(|reason| *reason as u32 == self.word());
        Action::Drop(reason.unwrap_or(DropReason::Internal))
    }
}

/// Processes a packet from an interface completely. In the kernel its parts are programs of their
/// own.
pub fn process<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let mut outcome = steer(frame, interface, tables);
    while outcome.is_tail_call() {
        let argument = outcome.argument();
        outcome = match outcome.program() {
            FIRST_FRAGMENT => first_fragment(frame, interface, tables),
            ICMP_ERROR => icmp_error(frame, interface, tables),
            V6 => steer_v6(frame, interface, tables),
            GENERAL => general(frame, interface, tables),
            LATER_FRAGMENT => later_fragment(frame, interface, tables),
            TIME_EXCEEDED => time_exceeded(frame, interface, tables),
            TOO_BIG => too_big(frame, interface, tables, argument),
            MAIN => steer(frame, interface, tables),
            NAT_CREATE => nat_create(frame, tables, argument),
            QUIC => quic(frame, tables, argument),
            QUIC_DECRYPT => decrypt(frame, tables),
            NAT_QUIC => nat_quic(frame, tables, argument),
            MARTIAN => martian(frame, interface, tables),
            NAT_REVALIDATE => nat_revalidate(frame, tables),
            RESET => answer_reset(frame, interface, tables, argument),
            NAT_TCP => nat_tcp(frame, tables, argument),
            NAT_RETRY => nat_retry(frame, tables, argument),
            VERIFY_CHECKSUM => verify_checksum(frame, tables, argument),
            _ => Outcome::drop(DropReason::Internal),
        };
    }
    outcome
}

/// Processes an IPv4 packet, unless it is rare or has more headers than usual: those are left to
/// [`general`], so that all offsets are constants here. IPv6 is left to [`steer_v6`]. Frames for
/// other hosts are passed.
#[inline(always)]
pub fn steer<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    if !is_for_node(frame, tables) {
        return Outcome::PASSED;
    }
    if is_v6(frame) {
        return Outcome::tail_call(V6, 0);
    }
    steer_v4(frame, interface, tables)
}

/// Processes a packet like [`steer`], if it is known not to be IPv6.
#[inline(always)]
pub fn steer_v4<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse_v4(frame, interface) else {
        return Outcome::tail_call(GENERAL, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::tail_call(MARTIAN, 0);
    }
    let mut member = None;
    let verdict = decide_for(&packet, tables, &Inline(&*frame), &mut member);
    act_first(frame, &packet, tables, verdict, member)
}

/// Processes a packet like [`steer`], for IPv6.
#[inline(always)]
pub fn steer_v6<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse_v6(frame, interface) else {
        return Outcome::tail_call(GENERAL, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::tail_call(MARTIAN, 0);
    }
    let mut member = None;
    let verdict = decide_for(&packet, tables, &Inline(&*frame), &mut member);
    act_first(frame, &packet, tables, verdict, member)
}

/// Processes a packet that may have VLAN tags, options or extension headers, unless it is rare.
#[inline(always)]
pub fn general<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse(frame, interface) else {
        return Outcome::tail_call(FIRST_FRAGMENT, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::tail_call(MARTIAN, 0);
    }
    let packet = kept(packet, tables);
    let verdict = decide(&packet, tables, &Deferred(&*frame));
    apply(frame, &packet, tables, verdict, None)
}

/// Keeps a packet for this program and those that go on with it. One case is made of all the ways that tags, options
/// and extension headers can lead to, so that the verifier follows what comes next once.
#[inline(always)]
pub(crate) fn kept<T: Tables>(packet: Packet, tables: &T) -> Packet {
    tables.keep_packet(&packet);
    Packet {
        kind: packet.kind,
        ..tables.kept_packet()
    }
}

/// Applies a verdict to a packet. `member` is the one that it is delivered to, if it was looked up
/// already.
#[inline(always)]
pub(crate) fn apply<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    verdict: Verdict,
    member: Option<&Member>,
) -> Outcome {
    apply_recorded(frame, packet, tables, verdict, member, |_, _| true)
}

/// Works like [`act`] in a program that has not stored its packet yet: the next one gets it.
#[inline(always)]
fn act_first<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    verdict: Verdict,
    member: Option<&Member>,
) -> Outcome {
    let outcome = apply(frame, packet, tables, verdict, member);
    if outcome.is_tail_call() {
        tables.keep_packet(packet);
    }
    outcome
}

/// Works like [`act`], after `note` has recorded the destination of the packet. If that fails, the
/// packet is dropped.
#[inline(always)]
pub(crate) fn apply_recorded<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    verdict: Verdict,
    member: Option<&Member>,
    note: impl Fn(FragmentFate, u16) -> bool,
) -> Outcome {
    const UNRECORDED: Outcome = Outcome::drop(DropReason::FlowTableFull);
    match verdict {
        Verdict::Pass => Outcome::PASSED,
        Verdict::Drop(reason) => Outcome::drop(reason),
        Verdict::Encap(target) => {
            if !note(FragmentFate::Delivered, target.id) {
                return UNRECORDED;
            }
            let Some(member) = member.or_else(|| tables.member(target.id)) else {
                return Outcome::drop(DropReason::Internal);
            };
            deliver(frame, packet, tables, target, member)
        }
        // It would take a port, and end here with it.
        Verdict::NatCreate(_) if packet.ttl <= 1 => TTL_EXPIRED,
        Verdict::NatCreate(target) if packet.is_tcp() => {
            Outcome::tail_call(VERIFY_CHECKSUM, target.id)
        }
        Verdict::NatCreate(target) => Outcome::tail_call(NAT_CREATE, target.id),
        Verdict::Quic => Outcome::tail_call(QUIC, 0),
        Verdict::QuicDecrypt => Outcome::tail_call(QUIC_DECRYPT, 0),
        Verdict::NatTcp => Outcome::tail_call(VERIFY_CHECKSUM, segment::JUDGE),
        Verdict::NatQuic(target) => Outcome::tail_call(NAT_QUIC, target.id),
        Verdict::NatForward(target, ends) => {
            if !note(FragmentFate::Forwarded, target.id) {
                return UNRECORDED;
            }
            forward(frame, packet, tables, target, &ends)
        }
        Verdict::NatReply(member, ends, back) => {
            if !note(FragmentFate::Returned, member) {
                return UNRECORDED;
            }
            reply(frame, packet, tables, member, &ends, &back)
        }
        Verdict::Reset => Outcome::tail_call(VERIFY_CHECKSUM, segment::RESET_SENDER),
        Verdict::NatRevalidate => Outcome::tail_call(NAT_REVALIDATE, 0),
    }
}

/// The packet ends here: its sender is informed.
pub(crate) const TTL_EXPIRED: Outcome = Outcome::tail_call(TIME_EXCEEDED, 0);

/// Sends a packet to a member with unchanged addresses.
#[inline(always)]
pub(crate) fn deliver<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    target: Target,
    member: &Member,
) -> Outcome {
    if packet.ttl <= 1 {
        return TTL_EXPIRED;
    }
    let Some(hop) = rewrite::next_hop(packet, tables, member) else {
        return Outcome::drop(DropReason::NoRoute);
    };
    let overhead = rewrite::overhead(member);
    if is_too_big(packet, &hop, overhead) {
        let mtu = hop.mtu.saturating_sub(overhead as u16);
        return Outcome::tail_call(TOO_BIG, mtu);
    }
    let done = if member.mode == Mode::L2 as u8 {
        rewrite::l2(frame, packet, &hop)
    } else {
        rewrite::encap(frame, packet, tables, member, &hop, overhead)
    };
    count(packet, tables, target.id, target.begins, done);
    Outcome::from_rewrite(done, hop.interface)
}

/// Sends a packet to a member with rewritten addresses.
#[inline(always)]
pub(crate) fn forward<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    target: Target,
    ends: &Endpoints,
) -> Outcome {
    if packet.ttl <= 1 {
        return TTL_EXPIRED;
    }
    let Some(member) = tables.member(target.id) else {
        return Outcome::drop(DropReason::Internal);
    };
    let Some(hop) = rewrite::next_hop(packet, tables, member) else {
        return Outcome::drop(DropReason::NoRoute);
    };
    if is_too_big(packet, &hop, 0) {
        return Outcome::tail_call(TOO_BIG, hop.mtu);
    }
    let done = rewrite::forward(frame, packet, ends, &hop);
    count(packet, tables, target.id, target.begins, done);
    Outcome::from_rewrite(done, hop.interface)
}

/// Sends a packet from a member to its client.
#[inline(always)]
pub(crate) fn reply<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    member: u16,
    ends: &Endpoints,
    back: &ClientNextHop,
) -> Outcome {
    if packet.ttl <= 1 {
        return TTL_EXPIRED;
    }
    let done = rewrite::reply(frame, packet, ends, back);
    if done.is_ok() && packet.kind as u8 != PacketKind::IcmpError as u8 {
        tables.count_reply(member, u64::from(packet.payload()));
    }
    Outcome::from_rewrite(done, back.interface)
}

/// Returns whether an encapsulated packet exceeds the MTU of the path to its member.
#[inline(always)]
fn is_too_big(packet: &Packet, hop: &NextHop, overhead: u32) -> bool {
    hop.mtu != 0 && packet.ip_len + overhead > u32::from(hop.mtu)
}

#[inline(always)]
fn count<T: Tables>(
    packet: &Packet,
    tables: &T,
    id: u16,
    begins: u8,
    done: Result<(), DropReason>,
) {
    if done.is_ok() {
        tables.count_member(id, packet.frame_len as u64, begins);
    }
}
