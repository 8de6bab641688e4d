//! Rings of unassured flows, one for each CPU.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use steer_common::abi::UnassuredFlow;

use crate::maps::{NEXT_UNASSURED, UNASSURED_FLOWS};

/// Returns the next element in this CPU's ring of length `len`. `None` if there is no ring.
#[inline(always)]
pub(crate) fn next(len: u32) -> Option<*mut UnassuredFlow> {
    if len == 0 {
        return None;
    }
    let position = NEXT_UNASSURED.with(0, |next| {
        let position = if *next < len { *next } else { 0 };
        *next = position + 1;
        position
    })?;
    // SAFETY: the helper takes nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    UNASSURED_FLOWS.get_ptr_mut(cpu.wrapping_mul(len).wrapping_add(position))
}
