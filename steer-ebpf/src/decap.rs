//! XDP program of `steer decap`: removes outer headers, and passes inner packets to the kernel's
//! stack.
#![no_std]
#![no_main]
#![deny(clippy::wildcard_enum_match_arm)]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "to know which offsets are constants")]

#[macro_use]
mod map_table;
mod packet;
mod per_cpu;
mod runtime;
mod maps {
    //! Every map of the program.

    use aya_ebpf::macros::map;
    use steer_common::{
        abi::{Address, DropReason, MAX_DECAP_SOURCES},
        decap_maps,
        frame::MAX_LAUNDERED_BYTES,
    };

    use crate::per_cpu::PerCpu;

    decap_maps!(statics);

    #[map]
    pub(crate) static SCRATCH: PerCpu<[u64; MAX_LAUNDERED_BYTES / 8]> =
        PerCpu::with_max_entries(1, 0);
}

use aya_ebpf::{bindings::xdp_action, macros::xdp, maps::lpm_trie::Key, programs::XdpContext};
use steer_common::decap::{Decap, decap};

use crate::{
    maps::{DECAP_COUNTS, DECAP_PORT, DECAP_SOURCES},
    packet::XdpFrame,
};

/// Removes the outer header of a packet, if a node added it.
#[xdp]
pub fn steer_decap(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let port = DECAP_PORT.get(0).copied().unwrap_or(0);
    match decap(&mut frame, port as u16, |source| {
        DECAP_SOURCES.get(Key::new(128, *source)).is_some()
    }) {
        Decap::Other => xdp_action::XDP_PASS,
        Decap::Done => {
            count(0);
            xdp_action::XDP_PASS
        }
        Decap::Drop(reason) => {
            count(reason as u32);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn count(index: u32) {
    DECAP_COUNTS.with(index, |count| *count += 1);
}
