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
    abi::{
        GENERAL, NAT_CREATE, NAT_QUIC, NAT_TCP, QUIC, QUIC_DECRYPT, TraceVerdict, V6,
        VERIFY_CHECKSUM,
    },
    answer_reset, decrypt, first_fragment, general, icmp_error, is_for_node, later_fragment,
    martian, nat_create, nat_quic, nat_retry, nat_revalidate, nat_tcp, quic, steer_v4,
    time_exceeded, too_big,
    verdict::DropReason,
    verify_checksum,
    wire::is_v6,
};

use crate::{
    packet::{XdpFrame, first_element},
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
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = general(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers a first fragment.
#[xdp]
#[inline(always)]
pub fn steer_first_fragment(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = first_fragment(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers an ICMP error.
#[xdp]
#[inline(always)]
pub fn steer_icmp_error(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = icmp_error(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers a later fragment.
#[xdp]
#[inline(always)]
pub fn steer_later_fragment(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = later_fragment(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Answers a packet that is too big.
#[xdp]
#[inline(always)]
pub fn steer_too_big(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = too_big(&mut frame, interface, &tables, tail_call_argument());
    finish(&ctx, outcome, interface)
}

/// Answers a packet whose TTL expires here.
#[xdp]
#[inline(always)]
pub fn steer_time_exceeded(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = time_exceeded(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Creates a flow with rewritten addresses.
#[xdp]
#[inline(always)]
pub fn steer_nat_create(ctx: XdpContext) -> u32 {
    let Some((frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = nat_create(&frame, &tables, tail_call_argument());
    finish(&ctx, outcome, interface)
}

/// Steers a packet for a service of QUIC.
#[xdp]
#[inline(always)]
pub fn steer_quic(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = quic(&mut frame, &tables, tail_call_argument());
    finish(&ctx, outcome, interface)
}

/// Decrypts the connection id of a packet of QUIC.
#[xdp]
#[inline(always)]
pub fn steer_quic_decrypt(ctx: XdpContext) -> u32 {
    let Some((frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = decrypt(&frame, &tables);
    finish(&ctx, outcome, interface)
}

/// Sends a packet of QUIC to a member with rewritten addresses.
#[xdp]
#[inline(always)]
pub fn steer_nat_quic(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = nat_quic(&mut frame, &tables, tail_call_argument());
    finish(&ctx, outcome, interface)
}

/// Verifies the checksum of a segment that opens a flow.
#[xdp]
#[inline(always)]
pub fn steer_verify_checksum(ctx: XdpContext) -> u32 {
    let Some((frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = verify_checksum(&frame, &tables, tail_call_argument());
    finish(&ctx, outcome, interface)
}

/// Answers a TCP segment with a reset.
#[xdp]
#[inline(always)]
pub fn steer_reset(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = answer_reset(&mut frame, interface, &tables, tail_call_argument());
    finish(&ctx, outcome, interface)
}

/// Re-checks a flow with rewritten addresses.
#[xdp]
#[inline(always)]
pub fn steer_nat_revalidate(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = nat_revalidate(&mut frame, &tables);
    finish(&ctx, outcome, interface)
}

/// Drops a packet for a service from an impossible source.
#[xdp]
#[inline(always)]
pub fn steer_martian(ctx: XdpContext) -> u32 {
    let Some((frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = martian(&frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers a TCP segment that needs a close examination.
#[xdp]
#[inline(always)]
pub fn steer_nat_tcp(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = nat_tcp(&mut frame, &tables, tail_call_argument());
    finish(&ctx, outcome, interface)
}

/// Steers an unanswered SYN.
#[xdp]
#[inline(always)]
pub fn steer_nat_retry(ctx: XdpContext) -> u32 {
    let Some((mut frame, interface, tables)) = enter(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    let outcome = nat_retry(&mut frame, &tables, tail_call_argument());
    finish(&ctx, outcome, interface)
}

/// Starts a program. All of a program is one function: calls are slow, and each one takes a share
/// of the stack.
#[inline(always)]
fn enter(ctx: &XdpContext) -> Option<(XdpFrame, u32, KernelTables<true>)> {
    let tables = KernelTables::new(ctx)?;
    Some((XdpFrame::new(ctx), ctx.ingress_ifindex() as u32, tables))
}

/// Returns the argument from the previous program.
#[inline(always)]
fn tail_call_argument() -> u16 {
    // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
    unsafe { *first_element(maps::TAIL_CALL_ARGUMENT.get_ptr_mut(0)) as u16 }
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
    // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
    unsafe {
        *first_element(maps::TAIL_CALL_ARGUMENT.get_ptr_mut(0)) = u32::from(outcome.argument())
    };
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
