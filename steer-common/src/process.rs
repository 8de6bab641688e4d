//! Processing of a packet: parse, decide, rewrite, count.

use crate::{
    abi::{
        Back, CHECK, FOLLOW, FragmentFate, GENERAL, MAIN, MARTIAN, Member, Mode, OPEN, QUIC,
        QUIC_DECRYPT, QUOTE, RARE, RESET, RETRY, SEGMENT, TIME_EXCEEDED, TOO_BIG, TRANSLATE, V6,
        VERIFY,
    },
    answer::answer_reset,
    decide::{decide, decide_for},
    frame::Frame,
    martian::{is_martian, martian},
    nat_check::check,
    own::is_for_node,
    quic::{Beside, Elsewhere, decrypt, quic, translate},
    rare::{follow, open, quote, rare, too_big},
    rewrite,
    segment::{self, retry, segment, verify},
    tables::{NextHop, Tables},
    time_exceeded::time_exceeded,
    verdict::{DropReason, Ends, Target, Verdict},
    wire::{Packet, Part, is_v6, parse, parse_v4, parse_v6},
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
    const HANDED_OVER: u64 = 4 << 32;

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
    pub(crate) const fn hand_over(program: u32, argument: u16) -> Self {
        Self(Self::HANDED_OVER | (program << 16) as u64 | argument as u64)
    }

    #[inline(always)]
    pub(crate) const fn of(done: Result<(), DropReason>, interface: u32) -> Self {
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
    pub const fn is_handed_over(self) -> bool {
        self.0 & Self::HANDED_OVER != 0
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
    while outcome.is_handed_over() {
        let argument = outcome.argument();
        outcome = match outcome.program() {
            RARE => rare(frame, interface, tables),
            QUOTE => quote(frame, interface, tables),
            V6 => steer_v6(frame, interface, tables),
            GENERAL => general(frame, interface, tables),
            FOLLOW => follow(frame, interface, tables),
            TIME_EXCEEDED => time_exceeded(frame, interface, tables),
            TOO_BIG => too_big(frame, interface, tables, argument),
            MAIN => steer(frame, interface, tables),
            OPEN => open(frame, tables, argument),
            QUIC => quic(frame, tables, argument),
            QUIC_DECRYPT => decrypt(frame, tables),
            TRANSLATE => translate(frame, tables, argument),
            MARTIAN => martian(frame, interface, tables),
            CHECK => check(frame, tables),
            RESET => answer_reset(frame, interface, tables, argument),
            SEGMENT => segment(frame, tables, argument),
            RETRY => retry(frame, tables, argument),
            VERIFY => verify(frame, tables, argument),
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
        return Outcome::hand_over(V6, 0);
    }
    steer_v4(frame, interface, tables)
}

/// Processes a packet like [`steer`], if it is known not to be IPv6.
#[inline(always)]
pub fn steer_v4<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse_v4(frame, interface) else {
        return Outcome::hand_over(GENERAL, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::hand_over(MARTIAN, 0);
    }
    let mut member = None;
    let verdict = decide_for(&packet, tables, &Beside(&*frame), &mut member);
    act_first(frame, &packet, tables, verdict, member)
}

/// Processes a packet like [`steer`], for IPv6.
#[inline(always)]
pub fn steer_v6<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse_v6(frame, interface) else {
        return Outcome::hand_over(GENERAL, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::hand_over(MARTIAN, 0);
    }
    let mut member = None;
    let verdict = decide_for(&packet, tables, &Beside(&*frame), &mut member);
    act_first(frame, &packet, tables, verdict, member)
}

/// Processes a packet that may have VLAN tags, options or extension headers, unless it is rare.
#[inline(always)]
pub fn general<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse(frame, interface) else {
        return Outcome::hand_over(RARE, 0);
    };
    if is_martian(&packet.key) {
        return Outcome::hand_over(MARTIAN, 0);
    }
    let packet = kept(packet, tables);
    let verdict = decide(&packet, tables, &Elsewhere(&*frame));
    act(frame, &packet, tables, verdict, None)
}

/// Keeps a packet for this program and those that go on with it. One case is made of all the ways that tags, options
/// and extension headers can lead to, so that the verifier follows what comes next once.
#[inline(always)]
pub(crate) fn kept<T: Tables>(packet: Packet, tables: &T) -> Packet {
    tables.keep_packet(&packet);
    Packet {
        part: packet.part,
        ..tables.kept_packet()
    }
}

/// Applies a verdict to a packet. `member` is the one that it is delivered to, if it was looked up
/// already.
#[inline(always)]
pub(crate) fn act<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    verdict: Verdict,
    member: Option<&Member>,
) -> Outcome {
    act_noted(frame, packet, tables, verdict, member, |_, _| true)
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
    let outcome = act(frame, packet, tables, verdict, member);
    if outcome.is_handed_over() {
        tables.keep_packet(packet);
    }
    outcome
}

/// Works like [`act`], after `note` has recorded the destination of the packet. If that fails, the
/// packet is dropped.
#[inline(always)]
pub(crate) fn act_noted<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    verdict: Verdict,
    member: Option<&Member>,
    note: impl Fn(FragmentFate, u16) -> bool,
) -> Outcome {
    const UNNOTED: Outcome = Outcome::drop(DropReason::FlowTableFull);
    match verdict {
        Verdict::Pass => Outcome::PASSED,
        Verdict::Drop(reason) => Outcome::drop(reason),
        Verdict::Deliver(target) => {
            if !note(FragmentFate::Delivered, target.id) {
                return UNNOTED;
            }
            let Some(member) = member.or_else(|| tables.member(target.id)) else {
                return Outcome::drop(DropReason::Internal);
            };
            deliver(frame, packet, tables, target, member)
        }
        // It would take a port, and end here with it.
        Verdict::Open(_) if packet.ttl <= 1 => ENDED,
        Verdict::Open(target) if packet.is_tcp() => Outcome::hand_over(VERIFY, target.id),
        Verdict::Open(target) => Outcome::hand_over(OPEN, target.id),
        Verdict::Quic => Outcome::hand_over(QUIC, 0),
        Verdict::QuicDecrypt => Outcome::hand_over(QUIC_DECRYPT, 0),
        Verdict::Judge => Outcome::hand_over(VERIFY, segment::JUDGE),
        Verdict::Translate(target) => Outcome::hand_over(TRANSLATE, target.id),
        Verdict::Forward(target, ends) => {
            if !note(FragmentFate::Forwarded, target.id) {
                return UNNOTED;
            }
            forward(frame, packet, tables, target, &ends)
        }
        Verdict::Return(member, ends, back) => {
            if !note(FragmentFate::Returned, member) {
                return UNNOTED;
            }
            give_back(frame, packet, tables, member, &ends, &back)
        }
        Verdict::Reset => Outcome::hand_over(VERIFY, segment::RESET_SENDER),
        Verdict::Check => Outcome::hand_over(CHECK, 0),
    }
}

/// The packet ends here: its sender is informed.
pub(crate) const ENDED: Outcome = Outcome::hand_over(TIME_EXCEEDED, 0);

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
        return ENDED;
    }
    let Some(hop) = rewrite::next_hop(packet, tables, member) else {
        return Outcome::drop(DropReason::NoRoute);
    };
    let overhead = rewrite::overhead(member);
    if is_too_big(packet, &hop, overhead) {
        let mtu = hop.mtu.saturating_sub(overhead as u16);
        return Outcome::hand_over(TOO_BIG, mtu);
    }
    let done = if member.mode == Mode::L2 as u8 {
        rewrite::l2(frame, packet, &hop)
    } else {
        rewrite::encap(frame, packet, tables, member, &hop, overhead)
    };
    count(packet, tables, target.id, target.begins, done);
    Outcome::of(done, hop.interface)
}

/// Sends a packet to a member with rewritten addresses.
#[inline(always)]
pub(crate) fn forward<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    target: Target,
    ends: &Ends,
) -> Outcome {
    if packet.ttl <= 1 {
        return ENDED;
    }
    let Some(member) = tables.member(target.id) else {
        return Outcome::drop(DropReason::Internal);
    };
    let Some(hop) = rewrite::next_hop(packet, tables, member) else {
        return Outcome::drop(DropReason::NoRoute);
    };
    if is_too_big(packet, &hop, 0) {
        return Outcome::hand_over(TOO_BIG, hop.mtu);
    }
    let done = rewrite::forward(frame, packet, ends, &hop);
    count(packet, tables, target.id, target.begins, done);
    Outcome::of(done, hop.interface)
}

/// Sends a packet from a member to its client.
#[inline(always)]
pub(crate) fn give_back<F: Frame, T: Tables>(
    frame: &mut F,
    packet: &Packet,
    tables: &T,
    member: u16,
    ends: &Ends,
    back: &Back,
) -> Outcome {
    if packet.ttl <= 1 {
        return ENDED;
    }
    let done = rewrite::back(frame, packet, ends, back);
    if done.is_ok() && packet.part as u8 != Part::Quote as u8 {
        tables.count_reply(member, u64::from(packet.payload()));
    }
    Outcome::of(done, back.interface)
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
