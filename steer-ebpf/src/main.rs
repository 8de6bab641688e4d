//! The XDP program of steer.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use steer_common as _;

/// Passes every packet to the kernel.
#[xdp]
pub fn steer(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Never reached: a program that could panic does not link.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The licence the kernel checks for GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
