//! XDP programs of steer: the data path of `steer-common` over real packets and real maps.
#![no_std]
#![no_main]
#![deny(clippy::wildcard_enum_match_arm)]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "to know which offsets are constants")]

mod atomic;
mod counters;
#[cfg(not(feature = "trace"))]
mod cutover;
mod fib;
mod icmp_budget;
#[cfg(feature = "trace")]
mod log;
#[macro_use]
mod map_table;
mod maps;
mod packet;
mod per_cpu;
mod runtime;
mod slots;
mod tables;
#[cfg(feature = "trace")]
mod trace;
#[cfg(not(feature = "trace"))]
#[path = "no_trace.rs"]
mod trace;
mod unassured;

use core::arch::asm;

use aya_ebpf::{
    bindings::{bpf_func_id::BPF_FUNC_tail_call, xdp_action},
    macros::xdp,
    programs::XdpContext,
};
use steer_common::{
    Outcome,
    abi::{
        GENERAL, NAT_CREATE, NAT_QUIC, NAT_TCP, QUIC, QUIC_DECRYPT, TraceVerdict, V6,
        VERIFY_CHECKSUM,
    },
    programs::{
        first_fragment, general, icmp_error, is_for_node, later_fragment, martian, nat_create,
        nat_quic, nat_retry, nat_revalidate, nat_tcp, quic, quic_decrypt, reset, time_exceeded,
        too_big, v4, v6, verify_checksum,
    },
    verdict::DropReason,
    wire::is_v6,
};

use crate::{counters::count_drop, packet::XdpFrame, tables::KernelTables};

/// Entry points: name of the program, whether paths are merged for the verifier, and the function of
/// `steer-common` that it runs.
macro_rules! entry_points {
    ($($(#[$doc:meta])* $name:ident, $merges:literal, |$input:ident| $outcome:expr;)*) => {$(
        $(#[$doc])*
        #[xdp]
        #[inline(always)]
        pub fn $name(ctx: XdpContext) -> u32 {
            let Some(mut input) = Input::<$merges>::new(&ctx) else {
                return xdp_action::XDP_PASS;
            };
            let $input = &mut input;
            let outcome = $outcome;
            finish(&ctx, outcome, $input.interface)
        }
    )*};
}

entry_points! {
    /// Steers an IPv4 packet.
    steer_main, false, |p| main(p);
    /// Steers an IPv6 packet.
    steer_v6, false, |p| v6(&mut p.frame, p.interface, &p.tables);
    /// Steers a packet with VLAN tags, options or extension headers.
    steer_general, true, |p| general(&mut p.frame, p.interface, &p.tables);
    /// Steers a first fragment.
    steer_first_fragment, true, |p| first_fragment(&mut p.frame, p.interface, &p.tables);
    /// Steers a later fragment.
    steer_later_fragment, true, |p| later_fragment(&mut p.frame, p.interface, &p.tables);
    /// Steers an ICMP error.
    steer_icmp_error, true, |p| icmp_error(&mut p.frame, p.interface, &p.tables);
    /// Answers a packet that is too big.
    steer_too_big, true, |p| too_big(&mut p.frame, p.interface, &p.tables, argument());
    /// Answers a packet whose TTL expires here.
    steer_time_exceeded, true, |p| time_exceeded(&mut p.frame, p.interface, &p.tables);
    /// Creates a flow with rewritten addresses.
    steer_nat_create, true, |p| nat_create(&p.frame, &p.tables, argument());
    /// Re-checks a flow with rewritten addresses.
    steer_nat_revalidate, true, |p| nat_revalidate(&mut p.frame, &p.tables);
    /// Validates a TCP segment of a flow with rewritten addresses.
    steer_nat_tcp, true, |p| nat_tcp(&mut p.frame, &p.tables, argument());
    /// Sends an unanswered SYN to another member.
    steer_nat_retry, true, |p| nat_retry(&mut p.frame, &p.tables, argument());
    /// Steers a packet for a service of QUIC.
    steer_quic, true, |p| quic(&mut p.frame, &p.tables, argument());
    /// Decrypts the connection id of a packet of QUIC.
    steer_quic_decrypt, true, |p| quic_decrypt(&p.frame, &p.tables);
    /// Sends a packet of QUIC to a member with rewritten addresses.
    steer_nat_quic, true, |p| nat_quic(&mut p.frame, &p.tables, argument());
    /// Verifies the checksum of a TCP segment.
    steer_verify_checksum, true, |p| verify_checksum(&p.frame, &p.tables, argument());
    /// Answers a TCP segment with a reset.
    steer_reset, true, |p| reset(&mut p.frame, p.interface, &p.tables, argument());
    /// Drops a packet for a service from an impossible source.
    steer_martian, true, |p| martian(&p.frame, p.interface, &p.tables);
}

/// Input of a program. All of a program is one function: calls are slow, and each one takes a share
/// of the stack.
struct Input<'a, const MERGES: bool> {
    ctx: &'a XdpContext,
    frame: XdpFrame,
    interface: u32,
    tables: KernelTables<MERGES>,
}

impl<'a, const MERGES: bool> Input<'a, MERGES> {
    #[inline(always)]
    fn new(ctx: &'a XdpContext) -> Option<Self> {
        let tables = KernelTables::new(ctx)?;
        Some(Self {
            ctx,
            frame: XdpFrame::new(ctx),
            interface: ctx.ingress_ifindex() as u32,
            tables,
        })
    }
}

/// Returns the argument from the previous program.
#[inline(always)]
fn argument() -> u16 {
    maps::TAIL_CALL_ARGUMENT.with_first(|argument| *argument as u16)
}

/// Runs the entry program. The same as [`steer_common::programs::main`], but the kernel makes a tail
/// call to a constant a plain jump.
#[inline(always)]
fn main(input: &mut Input<'_, false>) -> Outcome {
    if !is_for_node(&input.frame, &input.tables) {
        return Outcome::PASSED;
    }
    if is_v6(&input.frame) {
        // SAFETY: the array holds programs of this object only.
        unsafe { maps::PROGRAMS.tail_call(input.ctx, V6) };
        return Outcome::drop(DropReason::Internal);
    }
    v4(&mut input.frame, input.interface, &input.tables)
}

#[inline(always)]
fn finish(ctx: &XdpContext, outcome: Outcome, interface: u32) -> u32 {
    if outcome.is_transmitted() {
        let port = outcome.word();
        if port == interface {
            return trace::end(ctx, TraceVerdict::Transmitted, port, xdp_action::XDP_TX);
        }
        return match maps::EGRESS_INTERFACES.redirect(port, 0) {
            Ok(action) => trace::end(ctx, TraceVerdict::Redirected, port, action),
            Err(_) => drop_for(ctx, DropReason::NoRoute as u32),
        };
    }
    if outcome.is_pass() {
        return trace::end(ctx, TraceVerdict::Passed, 0, xdp_action::XDP_PASS);
    }
    if outcome.is_tail_call() {
        return tail_call_to(ctx, outcome);
    }
    drop_for(ctx, outcome.word())
}

#[inline(always)]
fn tail_call_to(ctx: &XdpContext, outcome: Outcome) -> u32 {
    maps::TAIL_CALL_ARGUMENT.with_first(|argument| *argument = u32::from(outcome.argument()));
    match outcome.program() {
        QUIC => jump::<QUIC>(ctx),
        QUIC_DECRYPT => jump::<QUIC_DECRYPT>(ctx),
        NAT_QUIC => jump::<NAT_QUIC>(ctx),
        NAT_CREATE => jump::<NAT_CREATE>(ctx),
        VERIFY_CHECKSUM => jump::<VERIFY_CHECKSUM>(ctx),
        NAT_TCP => jump::<NAT_TCP>(ctx),
        GENERAL => jump::<GENERAL>(ctx),
        // SAFETY: the array holds programs of this object only.
        program => unsafe { maps::PROGRAMS.tail_call(ctx, program) },
    }
    drop_for(ctx, DropReason::Internal as u32)
}

/// Tail-calls a program by a constant number, which the kernel makes a plain jump. Several calls of
/// the helper would be merged by the compiler into one with the number in a register; assembly that
/// differs is not.
#[inline(always)]
fn jump<const PROGRAM: u32>(ctx: &XdpContext) {
    // SAFETY: `bpf_tail_call` with its three arguments, and all registers that a helper may change. The array
    // holds programs of this object only.
    unsafe {
        asm!(
            "r3 = {program}",
            "call {helper}",
            program = const PROGRAM,
            helper = const BPF_FUNC_tail_call,
            inlateout("r1") ctx.ctx => _,
            inlateout("r2") &raw const maps::PROGRAMS => _,
            lateout("r0") _,
            out("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
}

#[inline(always)]
fn drop_for(ctx: &XdpContext, reason: u32) -> u32 {
    let action = dropped(reason);
    trace::end(ctx, TraceVerdict::Dropped, reason, action)
}

#[inline(always)]
fn dropped(reason: u32) -> u32 {
    count_drop(reason);
    xdp_action::XDP_DROP
}
