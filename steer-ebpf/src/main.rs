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
use steer_common::{process, verdict::DropReason};

use crate::{
    packet::XdpFrame,
    tables::{KernelTables, count_drop},
};

/// Steers a packet.
#[xdp]
pub fn steer(ctx: XdpContext) -> u32 {
    let interface = ctx.ingress_ifindex() as u32;
    let mut frame = XdpFrame::new(&ctx);
    let tables = KernelTables::new(&ctx);
    let outcome = process(&mut frame, interface, &tables);
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
fn dropped(reason: u32) -> u32 {
    count_drop(reason);
    xdp_action::XDP_DROP
}
