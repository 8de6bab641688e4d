//! The outcome of a program.

use crate::{
    abi::{TIME_EXCEEDED, TOO_BIG},
    verdict::DropReason,
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

    /// Outcome of a packet whose TTL expires here: its sender is informed.
    pub(crate) const TTL_EXPIRED: Self = Self::tail_call(TIME_EXCEEDED, 0);

    /// Creates the outcome of a drop.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
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

    /// Returns the outcome for a fragment or an ICMP error, which is never answered with an ICMP error.
    #[inline(always)]
    pub(crate) const fn without_icmp_answer(self) -> Self {
        if self.is_tail_call() && self.program() == TOO_BIG {
            return Self::drop(DropReason::TooBig);
        }
        if self.is_tail_call() && self.program() == TIME_EXCEEDED {
            return Self::drop(DropReason::TtlExpired);
        }
        self
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
