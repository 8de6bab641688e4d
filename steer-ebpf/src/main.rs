//! The XDP program of steer: the data path of `steer-common` over real packets and real maps.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "to know which offsets are constants")]

mod maps;
mod packet;
mod route;
mod runtime;
mod tables;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use steer_common::{Outcome, follow, open, quote, rare, steer, too_big, verdict::DropReason};

use crate::{
    packet::XdpFrame,
    tables::{KernelTables, count_drop},
};

/// Steers a packet.
#[xdp]
pub fn steer_main(ctx: XdpContext) -> u32 {
    let interface = ctx.ingress_ifindex() as u32;
    let mut frame = XdpFrame::new(&ctx);
    let tables = KernelTables::new(&ctx);
    let outcome = steer(&mut frame, interface, &tables);
    finish(&ctx, outcome, interface)
}

/// Steers a first fragment.
#[xdp]
pub fn steer_rare(ctx: XdpContext) -> u32 {
    run_alone(&ctx, rare)
}

/// Steers an ICMP error.
#[xdp]
pub fn steer_quote(ctx: XdpContext) -> u32 {
    run_alone(&ctx, quote)
}

/// Steers a later fragment.
#[xdp]
pub fn steer_follow(ctx: XdpContext) -> u32 {
    run_alone(&ctx, follow)
}

/// Answers a packet that is too big.
#[xdp]
pub fn steer_too_big(ctx: XdpContext) -> u32 {
    run(&ctx, too_big)
}

/// Opens a flow with rewritten addresses.
#[xdp]
pub fn steer_open(ctx: XdpContext) -> u32 {
    run(&ctx, open)
}

/// Runs a part of the data path.
#[inline(always)]
fn run_alone(
    ctx: &XdpContext,
    part: impl FnOnce(&mut XdpFrame, u32, &KernelTables) -> Outcome,
) -> u32 {
    let interface = ctx.ingress_ifindex() as u32;
    let mut frame = XdpFrame::new(ctx);
    let tables = KernelTables::new(ctx);
    let outcome = part(&mut frame, interface, &tables);
    finish(ctx, outcome, interface)
}

/// Runs a part of the data path that was told something by the one before.
#[inline(always)]
fn run(
    ctx: &XdpContext,
    part: impl FnOnce(&mut XdpFrame, u32, &KernelTables, u16) -> Outcome,
) -> u32 {
    let interface = ctx.ingress_ifindex() as u32;
    let mut frame = XdpFrame::new(ctx);
    let tables = KernelTables::new(ctx);
    let argument = maps::ARGUMENT.get(0).copied().unwrap_or(0);
    let outcome = part(&mut frame, interface, &tables, argument as u16);
    finish(ctx, outcome, interface)
}

#[inline(always)]
fn finish(ctx: &XdpContext, outcome: Outcome, interface: u32) -> u32 {
    if outcome.is_handed_over() {
        return hand_over(ctx, outcome);
    }
    if outcome.is_pass() {
        return xdp_action::XDP_PASS;
    }
    if outcome.is_drop() {
        return dropped(outcome.word());
    }
    if outcome.word() == interface {
        return xdp_action::XDP_TX;
    }
    match maps::PORTS.redirect(outcome.word(), 0) {
        Ok(action) => action,
        Err(_) => dropped(DropReason::NoRoute as u32),
    }
}

#[inline(always)]
fn hand_over(ctx: &XdpContext, outcome: Outcome) -> u32 {
    if let Some(argument) = maps::ARGUMENT.get_ptr_mut(0) {
        // SAFETY: a per-CPU value, and a program is not interrupted by another of its kind.
        unsafe { *argument = u32::from(outcome.argument()) };
    }
    // SAFETY: the array holds programs of this object only.
    unsafe { maps::PROGRAMS.tail_call(ctx, outcome.program()) };
    dropped(DropReason::Internal as u32)
}

#[inline(always)]
fn dropped(reason: u32) -> u32 {
    count_drop(reason);
    xdp_action::XDP_DROP
}
