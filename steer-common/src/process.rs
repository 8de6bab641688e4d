//! A packet's way through: parse, decide, rewrite, count.

use crate::{
    decide::decide,
    frame::Frame,
    rewrite,
    tables::Tables,
    verdict::{DropReason, Target, Verdict},
    wire::{IPV4_HEADER, IPV6_HEADER, Packet, parse},
};

/// What the kernel is told to do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The kernel's stack gets it, untouched.
    Pass,
    /// It is dropped.
    Drop(DropReason),
    /// It leaves by the interface with this index.
    Transmit(u32),
}

/// An [`Action`] as one word.
///
/// Of an enum with payloads the compiler leaves parts undefined in registers that held pointers
/// before, and the verifier refuses to look at those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome(u64);

impl Outcome {
    const PASS: u64 = 2 << 32;
    const DROP: u64 = 1 << 32;

    /// Left to the kernel.
    pub const PASSED: Self = Self(Self::PASS);

    #[inline(always)]
    const fn drop(reason: DropReason) -> Self {
        Self(Self::DROP | reason as u64)
    }

    #[inline(always)]
    const fn transmit(interface: u32) -> Self {
        Self(interface as u64)
    }

    #[inline(always)]
    const fn of(done: Result<(), DropReason>, interface: u32) -> Self {
        match done {
            Ok(()) => Self::transmit(interface),
            Err(reason) => Self::drop(reason),
        }
    }

    /// Whether the packet is left to the kernel.
    #[inline(always)]
    pub const fn is_pass(self) -> bool {
        self.0 & Self::PASS != 0
    }

    /// Whether the packet is dropped; [`Self::word`] is the reason's number then.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.0 & Self::DROP != 0
    }

    /// The reason's number, or the interface that the packet leaves by.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0 as u32
    }

    /// The action that it stands for.
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

/// Does all there is to do with a packet that came in by an interface.
#[inline(always)]
pub fn process<F: Frame, T: Tables>(frame: &mut F, interface: u32, tables: &T) -> Outcome {
    let Some(packet) = parse(frame, interface) else {
        return Outcome::PASSED;
    };
    // The rest of the program is one copy for all packets: a copy for those without tags, options
    // and extension headers, with constant offsets, was measured and is slower.
    let header = if packet.is_v6() {
        IPV6_HEADER
    } else {
        IPV4_HEADER
    };
    let packet = if packet.is_plain(header) {
        packet
    } else {
        packet.hidden(frame)
    };
    let packet = &packet;
    match decide(packet, tables) {
        Verdict::Pass => Outcome::PASSED,
        Verdict::Drop(reason) => Outcome::drop(reason),
        Verdict::Encap(target) => {
            let Some(member) = tables.member(target.id) else {
                return Outcome::drop(DropReason::Internal);
            };
            let Some(hop) = rewrite::next_hop(packet, tables, member) else {
                return Outcome::drop(DropReason::NoRoute);
            };
            let done = rewrite::encap(frame, packet, tables, member, &hop);
            count(packet, tables, target, done);
            Outcome::of(done, hop.interface)
        }
        Verdict::Forward(target, nat) => {
            let Some(member) = tables.member(target.id) else {
                return Outcome::drop(DropReason::Internal);
            };
            let Some(hop) = rewrite::next_hop(packet, tables, member) else {
                return Outcome::drop(DropReason::NoRoute);
            };
            let done = rewrite::forward(frame, packet, &nat, &hop);
            count(packet, tables, target, done);
            Outcome::of(done, hop.interface)
        }
        Verdict::Return(nat) => Outcome::of(rewrite::back(frame, packet, &nat), nat.interface),
        Verdict::Reset => {
            let done = rewrite::reset(frame, packet);
            // The answer is sent, but the packet itself goes nowhere.
            if done.is_ok() {
                tables.count_drop(DropReason::Reset);
            }
            Outcome::of(done, packet.interface)
        }
    }
}

#[inline(always)]
fn count<T: Tables>(packet: &Packet, tables: &T, target: Target, done: Result<(), DropReason>) {
    if done.is_ok() {
        tables.count_member(target.id, packet.frame_len as u64, target.new);
    }
}
