//! XDP programs of steer: the data path of `steer-common` over real packets and real maps.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "to know which offsets are constants")]

#[cfg(not(feature = "trace"))]
mod gate;
mod maps;
mod packet;
mod route;
mod runtime;
mod tables;
#[cfg(feature = "trace")]
mod trace;
#[cfg(not(feature = "trace"))]
#[path = "no_trace.rs"]
mod trace;

use core::arch::asm;

use aya_ebpf::{
    bindings::{bpf_func_id::BPF_FUNC_tail_call, xdp_action},
    macros::xdp,
    programs::XdpContext,
};
use steer_common::{
    Outcome,
    abi::{GENERAL, OPEN, QUIC, QUIC_DECRYPT, SEGMENT, TRANSLATE, TraceVerdict, V6, VERIFY},
    answer_reset, check, decrypt, follow, general, is_for_node, martian, open, quic, quote, rare,
    retry, segment, steer_v4, time_exceeded, too_big, translate,
    verdict::DropReason,
    verify,
    wire::is_v6,
};

use crate::{
    packet::{XdpFrame, always},
    tables::{KernelTables, count_drop},
};

/// Steers an IPv4 packet.
#[xdp]
#[inline(always)]
pub fn steer_main(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let Some(tables) = KernelTables::<false>::new(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let interface = ctx.ingress_ifindex() as u32;
    // The same as `steer`, but the kernel makes a tail call to a constant a plain jump.
    if !is_for_node(&frame, &tables) {
        return finish(&ctx, Outcome::PASSED, interface);
    }
    if is_v6(&frame) {
        // SAFETY: the array holds programs of this object only.
        unsafe { maps::PROGRAMS.tail_call(&ctx, V6) };
        return dropped(DropReason::Internal as u32);
    }
    let outcome = steer_v4(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers an IPv6 packet.
#[xdp]
#[inline(always)]
pub fn steer_v6(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let Some(tables) = KernelTables::<false>::new(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let interface = ctx.ingress_ifindex() as u32;
    let outcome = steer_common::steer_v6(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers a packet with VLAN tags, options or extension headers.
#[xdp]
#[inline(always)]
pub fn steer_general(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = general(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers a first fragment.
#[xdp]
#[inline(always)]
pub fn steer_rare(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = rare(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers an ICMP error.
#[xdp]
#[inline(always)]
pub fn steer_quote(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = quote(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers a later fragment.
#[xdp]
#[inline(always)]
pub fn steer_follow(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = follow(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Answers a packet that is too big.
#[xdp]
#[inline(always)]
pub fn steer_too_big(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = too_big(&mut frame, interface, &tables, argument());
    finish(&ctx, outcome, interface)
}

/// Answers a packet whose TTL expires here.
#[xdp]
#[inline(always)]
pub fn steer_time_exceeded(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = time_exceeded(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Creates a flow with rewritten addresses.
#[xdp]
#[inline(always)]
pub fn steer_open(ctx: XdpContext) -> u32 {
    let Some((frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = open(&frame, &tables, argument());
    finish(&ctx, outcome, interface)
}

/// Steers a packet for a service of QUIC.
#[xdp]
#[inline(always)]
pub fn steer_quic(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = quic(&mut frame, &tables, argument());
    finish(&ctx, outcome, interface)
}

/// Decrypts the connection id of a packet of QUIC.
#[xdp]
#[inline(always)]
pub fn steer_quic_decrypt(ctx: XdpContext) -> u32 {
    let Some((frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = decrypt(&frame, &tables);
    finish(&ctx, outcome, interface)
}

/// Sends a packet of QUIC to a member with rewritten addresses.
#[xdp]
#[inline(always)]
pub fn steer_translate(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = translate(&mut frame, &tables, argument());
    finish(&ctx, outcome, interface)
}

/// Verifies the checksum of a segment that opens a flow.
#[xdp]
#[inline(always)]
pub fn steer_verify(ctx: XdpContext) -> u32 {
    let Some((frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = verify(&frame, &tables, argument());
    finish(&ctx, outcome, interface)
}

/// Answers a TCP segment with a reset.
#[xdp]
#[inline(always)]
pub fn steer_reset(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = answer_reset(&mut frame, interface, &tables, argument());
    finish(&ctx, outcome, interface)
}

/// Re-checks a flow with rewritten addresses.
#[xdp]
#[inline(always)]
pub fn steer_check(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = check(&mut frame, &tables);
    finish(&ctx, outcome, interface)
}

/// Drops a packet for a service from an impossible source.
#[xdp]
#[inline(always)]
pub fn steer_martian(ctx: XdpContext) -> u32 {
    let Some((frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = martian(&frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers a TCP segment that needs a close examination.
#[xdp]
#[inline(always)]
pub fn steer_segment(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = segment(&mut frame, &tables, argument());
    finish(&ctx, outcome, interface)
}

/// Steers an unanswered SYN.
#[xdp]
#[inline(always)]
pub fn steer_retry(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = begin(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = retry(&mut frame, &tables, argument());
    finish(&ctx, outcome, interface)
}

/// Starts a program. All of a program is one function: calls are slow, and each one takes a share
/// of the stack.
#[inline(always)]
fn begin(ctx: &XdpContext) -> Option<(XdpFrame, u32, KernelTables<true>)> {
    let tables = KernelTables::new(ctx)?;
    Some((XdpFrame::new(ctx), ctx.ingress_ifindex() as u32, tables))
}

/// Returns the argument from the previous program.
#[inline(always)]
fn argument() -> u16 {
    // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
    unsafe { *always(maps::ARGUMENT.get_ptr_mut(0)) as u16 }
}

#[inline(always)]
fn finish(ctx: &XdpContext, outcome: Outcome, interface: u32) -> u32 {
    if outcome.is_transmitted() {
        let port = outcome.word();
        if port == interface {
            return trace::end(ctx, TraceVerdict::Transmitted, port, xdp_action::XDP_TX);
        }
        return match maps::PORTS.redirect(port, 0) {
            Ok(action) => trace::end(ctx, TraceVerdict::Redirected, port, action),
            Err(_) => drop_for(ctx, DropReason::NoRoute as u32),
        };
    }
    if outcome.is_pass() {
        return trace::end(ctx, TraceVerdict::Passed, 0, xdp_action::XDP_PASS);
    }
    if outcome.is_handed_over() {
        return hand_over(ctx, outcome);
    }
    drop_for(ctx, outcome.word())
}

#[inline(always)]
fn hand_over(ctx: &XdpContext, outcome: Outcome) -> u32 {
    // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
    unsafe { *always(maps::ARGUMENT.get_ptr_mut(0)) = u32::from(outcome.argument()) };
    match outcome.program() {
        QUIC => jump::<QUIC>(ctx),
        QUIC_DECRYPT => jump::<QUIC_DECRYPT>(ctx),
        TRANSLATE => jump::<TRANSLATE>(ctx),
        OPEN => jump::<OPEN>(ctx),
        VERIFY => jump::<VERIFY>(ctx),
        SEGMENT => jump::<SEGMENT>(ctx),
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
