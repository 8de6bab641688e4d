//! XDP program of `steer decap`: removes outer headers, and passes inner packets to the kernel's
//! stack.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "to know which offsets are constants")]

mod packet;
mod per_cpu;
mod runtime;
mod maps {
    //! Every map of the program.

    use aya_ebpf::{
        bindings::BPF_F_NO_PREALLOC,
        macros::map,
        maps::{Array, LpmTrie},
    };
    use steer_common::{
        abi::{self, Address},
        frame::MAX_LAUNDERED_BYTES,
        verdict::DropReason,
    };

    use crate::per_cpu::PerCpu;

    #[map]
    pub(crate) static DECAP_SOURCES: LpmTrie<Address, u32> =
        LpmTrie::with_max_entries(abi::MAX_DECAP_SOURCES, BPF_F_NO_PREALLOC);

    #[map]
    pub(crate) static DECAP_PORT: Array<u32> = Array::with_max_entries(1, 0);

    #[map]
    pub(crate) static DECAP_COUNTS: PerCpu<u64> = PerCpu::with_max_entries(DropReason::COUNT, 0);

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
